"""Every metric and every log event. Prompts, answers and keys are in neither."""

from oxyy_proxy.observe.log import Log as Log
from oxyy_proxy.observe.metrics import Metrics as Metrics
