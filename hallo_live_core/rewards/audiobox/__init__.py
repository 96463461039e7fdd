from .judge import AudioDetails, AudioJudge, Target
from .network import AudioBox, AudioBoxConfig

__all__ = ["AudioBox", "AudioBoxConfig", "AudioDetails", "AudioJudge", "Target"]
