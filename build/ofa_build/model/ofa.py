"""The whole model, with the parameter names of ModelScope's checkpoints."""

from __future__ import annotations

from torch import Tensor, nn

from .config import OFAConfig
from .decoder import Decoder
from .encoder import Encoder


class OFA(nn.Module):
    """OFA for captioning (Wang et al., 2022): ``state_dict`` keys are those of a ModelScope checkpoint."""

    def __init__(self, config: OFAConfig) -> None:
        super().__init__()
        self.config = config
        embed_tokens = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        self.encoder = Encoder(config, embed_tokens)
        self.decoder = Decoder(config, embed_tokens)
        self._initialise()

    def forward(self, pixels: Tensor, prompt: Tensor, tokens: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] of decoder tokens [B, T], given normalised pixels [B, 3, S, S] and one prompt [P].

        With ``wanted``, bool [B, T], only those tokens' logits [N, V]: the vocabulary's projection is costly.
        """
        states, positions = self.encoder(pixels, prompt)
        return self.decoder(tokens, states, positions, wanted)

    def _initialise(self) -> None:
        """Normal weights of ``init_std`` outside the ResNet; zero relative-position tables, as OFA starts them."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=self.config.init_std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                if "rel_pos_table" in name:
                    nn.init.zeros_(module.weight)
                else:
                    nn.init.normal_(module.weight, std=self.config.init_std)
        nn.init.zeros_(self.encoder.embed_tokens.weight[self.config.pad_token_id].detach())
