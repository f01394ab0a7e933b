"""Our environments as others' agents need them: intents or places as actions, one flat vector.

Importing the package registers them: `gymnasium.make("agents:agents/MarketIntent-v0")`.
"""

from agents.faces.face import Face, FacePolicy
from agents.faces.intents import IntentEnv, IntentFace, IntentVectorEnv
from agents.faces.masked import MaskedFace, MaskedSlateEnv, MaskedSlateVectorEnv
from agents.faces.registration import register_faces
from agents.faces.sb3 import MaskedVecEnv, intent_vec_env, masked_vec_env

__all__ = [
    "Face",
    "FacePolicy",
    "IntentEnv",
    "IntentFace",
    "IntentVectorEnv",
    "MaskedFace",
    "MaskedSlateEnv",
    "MaskedSlateVectorEnv",
    "MaskedVecEnv",
    "intent_vec_env",
    "masked_vec_env",
    "register_faces",
]
