"""The fields of a row: llama-bench's, under its names and in its order, followed by Rowspan's own.

This list alone defines rows: the store's table, the SQL format, and which differences a comparison may overlook all
follow from it. A field that cannot be known on a machine is None, never 0 and never left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

SAMPLES = ("samples_ns", "samples_ts", "client_samples_ns")  # fields that are lists


class Group(Enum):
    """The subject of a field; the value is what a sentence calls it."""

    IDENTITY = "which row it is"
    WORK = "the work"
    MODEL = "the model"
    MACHINE = "the machine"
    SYSTEM = "drivers and settings of the machine"
    ENGINE = "the engine"
    OPTIONS = "the engine's options"
    STATE = "the machine's state while measuring"
    RESULT = "the result"


@dataclass(frozen=True)
class Field:
    """name: the field's name and its column's. type: SQL's type."""

    name: str
    type: str
    group: Group


def _fields(group: Group, **types: str) -> tuple[Field, ...]:
    return tuple(Field(name, kind.upper(), group) for name, kind in types.items())


FIELDS = (
    *_fields(Group.ENGINE, build_commit="text", build_number="integer"),
    *_fields(Group.MACHINE, cpu_info="text", gpu_info="text"),
    *_fields(Group.OPTIONS, backends="text"),
    *_fields(Group.IDENTITY, model_filename="text"),
    *_fields(Group.MODEL, model_type="text", model_size="integer", model_n_params="integer"),
    *_fields(Group.OPTIONS, n_batch="integer", n_ubatch="integer", n_threads="integer", type_k="text", type_v="text"),
    *_fields(Group.OPTIONS, n_gpu_layers="integer", split_mode="text", main_gpu="integer", flash_attn="integer"),
    *_fields(Group.OPTIONS, devices="text", tensor_split="text"),
    *_fields(Group.WORK, n_prompt="integer", n_gen="integer", n_depth="integer"),
    *_fields(Group.IDENTITY, test_time="text"),
    *_fields(Group.RESULT, avg_ns="integer", stddev_ns="integer", avg_ts="real", stddev_ts="real", samples_ns="text"),
    *_fields(Group.RESULT, samples_ts="text"),
    # Rowspan's own fields.
    *_fields(Group.RESULT, median_ts="real", client_samples_ns="text", client_share="real"),
    *_fields(Group.WORK, n_concurrent="integer"),
    *_fields(Group.RESULT, check_tokens="integer", check_equal="integer", check_logprob="real"),
    *_fields(Group.IDENTITY, run_id="integer"),
    *_fields(Group.ENGINE, engine="text", engine_version="text", torch_version="text", kernels="text"),
    *_fields(Group.OPTIONS, dtype="text", engine_flags="text"),
    *_fields(Group.MODEL, model_fingerprint="text", model_sha256="text"),
    *_fields(Group.RESULT, load_seconds="real", weight_bytes="integer", cache_bytes="integer"),
    *_fields(Group.RESULT, peak_memory_bytes="integer"),
    *_fields(Group.MACHINE, cpu_cores="integer", memory_bytes="integer", card_links="text", peer_access="text"),
    *_fields(Group.SYSTEM, kernel="text", distribution="text", boot_options="text", bios="text", microcode="text"),
    *_fields(Group.SYSTEM, driver="text", firmware="text", governor="text", power_caps="text"),
    *_fields(Group.STATE, card_links_loaded="text", other_load="real", stolen_share="real", throttle_events="integer"),
    *_fields(Group.STATE, other_engines_paused="integer", other_engines_running="integer"),
    *_fields(Group.STATE, cpu_mhz_before="real", cpu_mhz_after="real", cpu_celsius_before="real"),
    *_fields(Group.STATE, cpu_celsius_after="real", card_mhz_before="text", card_mhz_after="text"),
    *_fields(Group.STATE, card_celsius_before="text", card_celsius_after="text"),
    *_fields(Group.RESULT, read_ceiling="real", operations_ceiling="real", operations_unit="text"),
    *_fields(Group.RESULT, bytes_per_second="real", operations_per_second="real", ceiling="text", ceiling_share="real"),
    *_fields(Group.RESULT, energy_meters="text", joules_per_token="real", idle_watts_empty="real"),
    *_fields(Group.RESULT, idle_watts_loaded="real", wake_seconds="real"),
)
NAMES = tuple(field.name for field in FIELDS)


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row with every field, in order; None for those that `values` lacks.

    Raises:
        KeyError: `values` has a field that is not in the list.
    """
    unknown = values.keys() - set(NAMES)
    if unknown:
        raise KeyError(f"no such fields: {', '.join(sorted(unknown))}")
    return {name: values.get(name) for name in NAMES}
