"""Rowspan's settings. Only this file holds defaults and reads environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs

from rowspan.plan.device import Device
from rowspan.plan.split_mode import SplitMode

DTYPES = ("int8", "float32", "bfloat16", "float16")
POOLINGS = ("mean", "cls", "last", "rank")


@dataclass(frozen=True)
class HubConfig:
    """Where models come from and where they are kept.

    cache: folder of downloaded models (ROWSPAN_CACHE; else the platform's cache folder).
    modelscope_endpoint: base address of ModelScope's API (MODELSCOPE_DOMAIN: a host name, or an address).
    huggingface_endpoint, huggingface_cache: None leaves the choice to huggingface_hub, which reads HF_ENDPOINT,
        HF_HOME and HF_HUB_CACHE itself.
    choose_by_machine: where a model is there in several quantizations and none is named, whether the one that fits this
        machine is chosen, rather than the usual one.
    attempts: how often in a row a download may fail without a byte of progress.
    retry_delay: seconds before the second attempt; doubles with every further one.
    """

    cache: Path
    modelscope_endpoint: str = "https://modelscope.cn"
    huggingface_endpoint: str | None = None
    huggingface_cache: Path | None = None
    choose_by_machine: bool = True
    attempts: int = 5
    retry_delay: float = 1.0

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> HubConfig:
        """Read the settings from the environment."""
        domain = environment.get("MODELSCOPE_DOMAIN")
        endpoint = domain if domain and "://" in domain else f"https://{domain}" if domain else cls.modelscope_endpoint
        return cls(
            cache=_path(environment, "ROWSPAN_CACHE") or platformdirs.user_cache_path("rowspan", appauthor=False),
            modelscope_endpoint=endpoint.rstrip("/"),
        )


@dataclass(frozen=True)
class Paths:
    """Files that are kept from one start to the next; an environment variable can move each one.

    baseline: measurements of `rowspan doctor --baseline` (ROWSPAN_BASELINE; else in the platform's state folder).
    bench: the database of all benchmark results (ROWSPAN_BENCH_DB; else in the platform's state folder).
    conversations: the console's database (ROWSPAN_CONVERSATIONS; else in the platform's state folder).
    probes: verdicts of transport probes (ROWSPAN_PROBES; else in the platform's cache folder).
    tuning: the fastest tiles for this machine's cards (ROWSPAN_TUNING; else in the platform's cache folder).
    """

    baseline: Path
    bench: Path
    conversations: Path
    probes: Path
    tuning: Path

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> Paths:
        """Read the paths from the environment."""
        state = platformdirs.user_state_path("rowspan", appauthor=False)
        cache = platformdirs.user_cache_path("rowspan", appauthor=False)
        return cls(
            baseline=_path(environment, "ROWSPAN_BASELINE") or state / "baseline.json",
            bench=_path(environment, "ROWSPAN_BENCH_DB") or state / "bench.sqlite",
            conversations=_path(environment, "ROWSPAN_CONVERSATIONS") or state / "conversations.sqlite",
            probes=_path(environment, "ROWSPAN_PROBES") or cache / "probes.json",
            tuning=_path(environment, "ROWSPAN_TUNING") or cache / "tuning.json",
        )


MOST_GUESSES = 16  # the default of --spec-max


@dataclass(frozen=True)
class EngineConfig:
    """How to run one model. Names in brackets are the command line's options."""

    model_path: Path
    devices: tuple[Device, ...] = (Device("cpu", 0),)  # [--devices]
    split_mode: SplitMode = SplitMode.LAYER  # [-sm]
    tensor_split: tuple[float, ...] | None = None  # [-ts] None: equal shares
    main_gpu: int = 0  # [-mg] the device that split mode `none` uses
    stages: int = 1  # [--stages] number of stages in split mode `row`, each with equally many devices
    gpu_layers: int | None = None  # [-ngl] number of first layers on cards, with the rest on CPUs; None: by shares
    context_size: int | None = None  # [-c] tokens of one request; None: the model's, as far as memory lasts
    parallel: int = 16  # [-np] requests that run at once; more wait
    token_budget: int = 512  # [-ub] tokens computed in one step
    block_size: int = 32  # positions in a cache block
    cache_tokens: int | None = None  # [--cache-tokens] positions in the whole cache; None: as many as useful and safe
    cache_type_k: str | None = None  # [-ctk] None: like dtype, and i16 beside int8
    cache_type_v: str | None = None  # [-ctv]
    # [--dtype] number type of activations. int8: activations are rounded to 8 bits for products with quantized weights;
    # None: int8 with native CPU kernels, bfloat16 on cards, float32 elsewhere
    dtype: str | None = None
    cpu_isa: str | None = None  # (ROWSPAN_CPU_ISA) None: the best there is
    card_kernels: str | None = None  # (ROWSPAN_CARD_KERNELS) None: the best there are
    gpu_memory_utilization: float = 0.9  # [--gpu-memory-utilization] share of a card that may be used, whoever uses it
    sleep_level: int = 2  # [--sleep-level] 1: weights go to the host's memory; 2: workers end
    threads: int | None = None  # [-t] over all CPU ranks together; None: the cores this process may use
    prefix_reuse: bool = True  # [--no-prefix-reuse]
    # [--spec, --spec-max] tokens guessed at a time at most, from earlier text, for each request that decodes; 0: none
    guesses: int = 0
    pooling: str | None = None  # [--pooling] of hidden states to an embedding; None: as the model's file has it
    # A natively computing worker that makes no progress for so long counts as hung, and all workers are started anew.
    # Progress is a task, one thread's part of a call, which takes milliseconds.
    hang_seconds: float = 10.0

    def with_env(self, environment: Mapping[str, str] = os.environ) -> EngineConfig:
        """The same configuration; if it names no kernels, with those that the environment names."""
        return replace(
            self,
            cpu_isa=self.cpu_isa or environment.get("ROWSPAN_CPU_ISA") or None,
            card_kernels=self.card_kernels or environment.get("ROWSPAN_CARD_KERNELS") or None,
        )


@dataclass(frozen=True)
class HostsConfig:
    """The hosts that run one model together. `rowspan.hosts.rendezvous` reads it."""

    n_hosts: int  # [--nnodes]
    host: int  # [--node-rank] which of them this is; 0 is the head, which serves
    address: str  # [--rdzv] where the head listens for the others
    port: int
    key: bytes  # (ROWSPAN_CLUSTER_KEY) what hosts know each other by

    @property
    def place(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class BackendConfig:
    """Where other engines are installed, and which arguments they get beyond Rowspan's own options.

    arguments: [--backend-args] passed to the other program unchanged.
    llamacpp_folder: folder with llama-server (ROWSPAN_LLAMACPP_DIR); None: search PATH, then the packages that bring
        it.
    vllm_python: the interpreter that has vLLM (ROWSPAN_VLLM_PYTHON); None: this one, if it has it.
    log_folder: folder for the engines' logs (ROWSPAN_LOGS; else the platform's log folder).
    data_folder: folder for Open WebUI's data (the platform's data folder).
    """

    arguments: tuple[str, ...] = ()
    llamacpp_folder: Path | None = None
    vllm_python: Path | None = None
    log_folder: Path = field(default_factory=lambda: platformdirs.user_log_path("rowspan", appauthor=False))
    data_folder: Path = field(default_factory=lambda: platformdirs.user_data_path("rowspan", appauthor=False))

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ, *, arguments: tuple[str, ...] = ()) -> BackendConfig:
        """Read the settings from the environment."""
        llamacpp, vllm = _path(environment, "ROWSPAN_LLAMACPP_DIR"), _path(environment, "ROWSPAN_VLLM_PYTHON")
        logs = _path(environment, "ROWSPAN_LOGS") or platformdirs.user_log_path("rowspan", appauthor=False)
        return cls(arguments, llamacpp, vllm, log_folder=logs)


@dataclass(frozen=True)
class ServerConfig:
    """The server's address, its API keys and its limits."""

    host: str = "127.0.0.1"  # [--host] one that ends with .sock is the path of a Unix socket
    port: int = 8000  # [--port]
    api_keys: frozenset[str] = field(default_factory=frozenset)  # [--api-key] empty: no key is asked for
    api_key_file: Path | None = None  # [--api-key-file] further keys, read anew when it changes
    ssl_files: tuple[Path, Path] | None = None  # [--ssl-cert-file, --ssl-key-file] for HTTPS
    cors_origins: frozenset[str] = frozenset()  # [--cors-origins] whose web pages may use this server; "*": any
    request_seconds: float = 60.0  # [--request-seconds] how long a client may pause while it sends a request
    max_waiting: int = 256  # [--max-waiting] requests beyond those that run; further ones get 429
    sleep_idle_seconds: float | None = None  # [--sleep-idle-seconds] None: devices are held all the time
    # [--tool-call-parser, --reasoning-parser] formats of `rowspan.text.chat_formats.registry`; None: by chat template.
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    drain_seconds: float = 30.0  # [--drain-seconds] how long SIGTERM lets running requests finish

    @classmethod
    def from_env(cls, environment: Mapping[str, str] = os.environ) -> ServerConfig:
        """Read the settings from the environment: ROWSPAN_API_KEY is a key that clients need."""
        key = environment.get("ROWSPAN_API_KEY")
        return cls(api_keys=frozenset({key}) if key else frozenset())


def _path(environment: Mapping[str, str], name: str) -> Path | None:
    """The path in an environment variable; None if it is not set, or empty."""
    value = environment.get(name)
    return Path(os.path.expanduser(value)) if value else None
