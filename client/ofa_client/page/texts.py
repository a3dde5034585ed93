"""Every word of the page, in each of its languages."""

from __future__ import annotations

LANGUAGES = {"English": "en", "中文": "zh"}
"""The languages as the page names them."""

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "title": "What is in the picture?",
        "intro": "Drop, paste or photograph a picture, or give its address. OFA describes it in words.",
        "url": "Address of a picture",
        "options": "Options (0 leaves it to the model)",
        "beam_size": "Beam size: hypotheses followed at each step",
        "num_captions": "Captions, at most the beam size",
        "max_length": "Longest caption, in tokens",
        "button": "Describe",
        "examples": "Examples",
        "waiting": "The captions appear here.",
        "score": "The numbers: log-probability a token; nearer to 0 is better.",
        "time": "Time",
        "preprocess_queue": "waiting for a decoder",
        "preprocess": "decoding the picture",
        "encode": "encoding",
        "search_queue": "waiting for the search",
        "search": "searching",
        "EMPTY_IMAGE": "The file is empty.",
        "UNSUPPORTED_FORMAT": "This is no picture that can be read. JPEG, PNG, WebP, GIF and BMP can.",
        "TRUNCATED_IMAGE": "The picture ends early or is damaged.",
        "IMAGE_TOO_LARGE": "The picture is too large: 20 MiB and 25 megapixels are the limits.",
        "INVALID_PARAMETER": "One of the options is out of range, or there are to be more captions than the beam size.",
        "DEADLINE_EXCEEDED": "This took too long. Lower the beam size or try again.",
        "OVERLOADED": "The server has too much to do. Try again in a moment.",
        "UNAVAILABLE": "The captioning server cannot be reached. Try again in a moment.",
        "FETCH_FAILED": "There is no picture to be had at this address.",
        "GONE": "The picture is no longer here. Please choose it again.",
        "OTHER": "Something went wrong on the server. Try again; if it stays so, tell whoever runs it.",
    },
    "zh": {
        "title": "图片里有什么？",
        "intro": "拖入、粘贴或拍摄一张图片，或者输入图片地址。OFA 会用文字描述它。",
        "url": "图片地址",
        "options": "选项（0 表示由模型决定）",
        "beam_size": "束宽：每一步保留的候选数",
        "num_captions": "描述数量，不超过束宽",
        "max_length": "描述的最大长度（词元）",
        "button": "生成描述",
        "examples": "示例",
        "waiting": "描述会显示在这里。",
        "score": "数字是每个词元的对数概率，越接近 0 越好。",
        "time": "用时",
        "preprocess_queue": "等待解码",
        "preprocess": "解码图片",
        "encode": "编码",
        "search_queue": "等待搜索",
        "search": "搜索",
        "EMPTY_IMAGE": "文件是空的。",
        "UNSUPPORTED_FORMAT": "无法识别这个文件。请使用 JPEG、PNG、WebP、GIF 或 BMP 图片。",
        "TRUNCATED_IMAGE": "图片不完整或已损坏。",
        "IMAGE_TOO_LARGE": "图片太大：最大 20 MiB、2500 万像素。",
        "INVALID_PARAMETER": "有一个选项超出范围，或者描述数量超过了束宽。",
        "DEADLINE_EXCEEDED": "用时过长。请减小束宽或重试。",
        "OVERLOADED": "服务器正忙，请稍后再试。",
        "UNAVAILABLE": "无法连接描述服务器，请稍后再试。",
        "FETCH_FAILED": "这个地址没有可用的图片。",
        "GONE": "图片已不在这里，请重新选择。",
        "OTHER": "服务器出错。请重试；如果仍然出错，请联系管理员。",
    },
}


def preferred_language(accept_language: str) -> str:
    """Choose a language by a browser's ``Accept-Language`` header."""
    return "zh" if accept_language.lower().lstrip().startswith("zh") else "en"
