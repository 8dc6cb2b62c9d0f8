"""What latent diffusion takes from `transformers`, under its names."""

from ppdiffusers.models import LDMBertModel
from ppdiffusers.pipelines.latent_diffusion import LDMBertConfig
from ppdiffusers.tokenizer import BertTokenizer, BertTokenizerFast

AutoTokenizer = BertTokenizer

__all__ = ["AutoTokenizer", "BertTokenizer", "BertTokenizerFast", "LDMBertConfig", "LDMBertModel"]
