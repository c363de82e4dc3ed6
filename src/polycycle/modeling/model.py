"""The mixin that turns a dense causal language model's class into its upcycled one."""

from typing import Any, ClassVar

from torch import nn
from transformers import initialization as init

from polycycle.errors import CheckpointError, ConfigError, TrainingError
from polycycle.modeling.block import MoeBlockMixin, NewExperts
from polycycle.modeling.recording import watch_routers
from polycycle.modeling.retention import RetentionMixin, watch_calls
from polycycle.routing import LanguageClassifier, RetentionGate, Router


class UpcycledModelMixin(RetentionMixin):
    """Mixed into a dense class: `class LlamaMoeForCausalLM(UpcycledModelMixin, LlamaForCausalLM)`.

    Attention, norms, caches, generation and loading stay the dense class's own; the feed-forward
    blocks of the layers that have more than one expert are replaced at construction.
    """

    moe_block: ClassVar[type[MoeBlockMixin]]

    # How many rows each expert gets is only known at run time.
    _can_compile_fullgraph = False

    def post_init(self) -> None:
        """Replace feed-forward blocks, then let transformers initialise and tie as usual."""
        config: Any = self.config
        _refuse_untested_parallelism(getattr(config, "distributed_config", None))
        _refuse_quantized_loading(getattr(config, "quantization_config", None))
        for index, layer in enumerate(self.model.layers):  # type: ignore[union-attr,arg-type]
            if config.num_experts_per_layer[index] > 1:
                layer.mlp = self.moe_block(config, index)
        watch_routers(self)
        if config.classifier_layers and config.classifier_form == "sequence":
            inner: Any = self.model
            inner.register_forward_pre_hook(_refuse_parts_of_sequences, with_kwargs=True)
        if config.exact_retention:
            watch_calls(self.model)
        super().post_init()  # type: ignore[misc]

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """`eager`; transformers asks before a model is built, and when it is to be changed.

        Raises:
            ConfigError: another one was asked for, which would silently change nothing.
        """
        if requested_experts not in (None, "eager"):
            raise ConfigError(
                f"experts_implementation={requested_experts!r}: the experts of an upcycled model "
                "have one implementation, their own, in which expert 0 stays the dense block. "
                "Leave it out; an export (`polycycle export`) can be run with any"
            )
        return "eager"

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Router):
            for rows in module.rows.values():
                init.xavier_normal_(rows)
        elif isinstance(module, LanguageClassifier | RetentionGate):
            init.zeros_(module.weight)
        elif isinstance(module, NewExperts):
            init.normal_(module.gate_up_proj, std=self.config.initializer_range)  # type: ignore[union-attr]
            init.normal_(module.down_proj, std=self.config.initializer_range)  # type: ignore[union-attr]
        else:
            super()._init_weights(module)  # type: ignore[misc]

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **kwargs: Any
    ) -> None:
        """Refuse reentrant checkpointing; every way of turning it on ends here.

        Raises:
            TrainingError: `use_reentrant=True` was asked for. It would silently drop the routers'
                gradients from losses on recorded router logits.
        """
        settings = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and settings.get("use_reentrant", True):
            raise TrainingError(
                "reentrant gradient checkpointing silently drops the routers' gradients; "
                'say gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        if gradient_checkpointing_func is not None:
            kwargs["gradient_checkpointing_func"] = gradient_checkpointing_func
        super()._set_gradient_checkpointing(enable=enable, **kwargs)  # type: ignore[misc]


def _refuse_untested_parallelism(distributed_config: Any) -> None:
    """The dense class's tensor-parallel plan would leave every new expert whole on every rank."""
    for name in ("tp_size", "ep_size", "pp_size"):
        size = getattr(distributed_config, name, None) or 1
        if size > 1:
            raise CheckpointError(
                f"{name}={size}: an upcycled model cannot be split this way. Shard it with "
                "DistributedConfig(fsdp_size=N), or place whole layers with device_map='auto'"
            )


def _refuse_quantized_loading(quantization_config: Any) -> None:
    """Quantisers replace `nn.Linear`s: attention and expert 0, but no new expert, which is most."""
    if quantization_config is None:
        return
    given = quantization_config
    settings = given if isinstance(given, dict) else given.to_dict()
    raise CheckpointError(
        f"quantised loading ({settings.get('quant_method')}) of an upcycled model is not "
        "supported: its new experts are packed tensors, which would stay as they are. Write a "
        "stock checkpoint with `polycycle export MODEL OUT` and quantise that, or load the model "
        "with dtype=torch.bfloat16"
    )


def _refuse_parts_of_sequences(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """A classifier that sums over a sequence needs each row to be one whole sequence.

    Raises:
        ConfigError: the call goes on from a cache, or packs several documents into a row.
    """
    cache = kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ConfigError(
            "classifier_form='sequence' cannot decode with a cache: it would judge each new token "
            "by itself. Generate with use_cache=False, or use classifier_form='token'"
        )
    positions = kwargs.get("position_ids")
    if positions is not None and bool((positions.diff(dim=-1) < 0).any()):
        raise ConfigError(
            "classifier_form='sequence' cannot judge packed documents: one decision would count "
            "for all documents of a row. Give one document per row, or use classifier_form='token'"
        )
