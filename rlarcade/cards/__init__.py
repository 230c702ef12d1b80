"""A checkpoint that travels: a folder with the agent, its scores, their games and a model card."""

from rlarcade.cards.checking import OpenedCard, evaluation_of, is_card, open_card
from rlarcade.cards.folder import check_card_folder, write_card
from rlarcade.cards.model_card import card_name
from rlarcade.cards.own_games import check_own_game

__all__ = [
    "OpenedCard",
    "card_name",
    "check_card_folder",
    "check_own_game",
    "evaluation_of",
    "is_card",
    "open_card",
    "write_card",
]
