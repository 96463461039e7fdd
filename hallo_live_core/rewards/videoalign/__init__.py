from .judge import Norm, VideoDetails, VideoJudge
from .network import VideoAlign, VideoAlignConfig
from .prompt import RewardTokenizer

__all__ = [
    "Norm",
    "RewardTokenizer",
    "VideoAlign",
    "VideoAlignConfig",
    "VideoDetails",
    "VideoJudge",
]
