"""Stands in for the package of ModelArts' inference images: the parent class of a service.

https://support.huaweicloud.com/intl/en-us/inference-modelarts/inference-modelarts-0057.html
"""
from typing import Any


class SingleNodeService:
    """Its `inference` calls the three methods in this order. It notes the calls."""

    calls: list[str] = []

    def inference(self, data: Any) -> Any:
        for name in ("_preprocess", "_inference", "_postprocess"):
            self.calls.append(name)
            data = getattr(self, name)(data)
        return data
