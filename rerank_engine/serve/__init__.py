"""The rerank server: `create_app` makes an ASGI app of a model, `rerank-engine serve` runs one. Needs the extra [serve]."""

from ..errors import MissingDependency

try:
    from .app import Limits, create_app
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "starlette", "pydantic", "prometheus_client"):
        raise
    raise MissingDependency(f"serve: {error.name} is not installed", hint="pip install 'rerank-engine[serve]'") from error

__all__ = ["Limits", "create_app"]
