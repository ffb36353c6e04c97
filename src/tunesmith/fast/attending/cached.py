"""One new token of several texts, over keys and values that lie in fixed places: what a decode step feeds.

It goes through the layers in the place of a FlatBatch. Nothing it does depends on a value on the host, so that a step
can be recorded as a CUDA graph.

Legend of the suffixes of tensor names: B texts, S places, H heads, G key heads, R query heads of each, D their size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith.fast.attending.options import AttentionOptions


class CachedBatch:
    """The texts of one decode step. `advance` moves it to the next.

    caches: keys and values [B, G, S, D] of each layer, in their order. first_B: the first place of each text, those
    before are padding. input_ids, position_ids: int64 [B]. place: int64 [1], where the new token comes to lie.
    """

    def __init__(
        self,
        caches: Sequence[tuple[Tensor, Tensor]],
        first_B: Tensor,
        input_ids: Tensor,
        position_ids: Tensor,
        place: Tensor,
    ) -> None:
        self.caches, self.first_B = list(caches), first_B
        self.input_ids, self.position_ids, self.place = input_ids, position_ids, place
        self._layer = 0
        self._masks: dict[int | None, Tensor] = {}

    def begin(self) -> None:
        """The step goes through the first layer next."""
        self._layer = 0
        self._masks.clear()

    def advance(self, tokens_B: Tensor) -> None:
        """The next step feeds these tokens."""
        self.input_ids.copy_(tokens_B)
        self.position_ids.add_(1)
        self.place.add_(1)

    def attend(self, q_BHD: Tensor, k_BGD: Tensor, v_BGD: Tensor, options: AttentionOptions) -> Tensor:
        """`attention.attend` for the layer that comes: over all its tokens so far. Returns [B, H, D]."""
        keys_BGSD, values_BGSD = self.caches[self._layer]
        self._layer += 1
        groups = keys_BGSD.shape[1]
        for cache_BGSD, new_BGD in ((keys_BGSD, k_BGD), (values_BGSD, v_BGD)):
            new_BGD = new_BGD[:, :: new_BGD.shape[1] // groups]  # some layers repeat them for each query head
            cache_BGSD.index_copy_(2, self.place, new_BGD[:, :, None].to(cache_BGSD.dtype))
        q_BGRD = q_BHD.to(keys_BGSD.dtype).unflatten(1, (groups, -1))
        mask_B11S = self._mask(options.window, q_BGRD.dtype)
        if options.softcap is None:
            out_BGRD = F.scaled_dot_product_attention(q_BGRD, keys_BGSD, values_BGSD, mask_B11S, scale=options.scale)
        else:
            scores = torch.matmul(q_BGRD.float(), keys_BGSD.float().transpose(-1, -2)) * options.scale
            scores = options.softcap * torch.tanh(scores / options.softcap) + mask_B11S.float()
            out_BGRD = torch.matmul(scores.softmax(-1), values_BGSD.float())
        return out_BGRD.flatten(1, 2).to(v_BGD.dtype)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """What is added to the scores: 0 from each text's first place, or the window's, to the new one; else -inf."""
        if window not in self._masks:
            places_S = torch.arange(self.caches[0][0].shape[2], device=self.place.device)
            seen_BS = (places_S >= self.first_B[:, None]) & (places_S <= self.place)
            if window is not None:
                seen_BS &= places_S > self.place - window
            hidden_BS = torch.zeros(seen_BS.shape, dtype=dtype, device=seen_BS.device)
            self._masks[window] = hidden_BS.masked_fill_(~seen_BS, float("-inf"))[:, None, None]
        return self._masks[window]
