"""A web page over the SDK: ``python -m ofa_client.page``, with the extra ``ofa-client[page]``."""
