"""The reference bank: packed configurations, and what they are asked. Not public.

`captum_rdr.ConfigurationBank` is public; the modules of this folder are not.
"""

from captum_rdr.bank.bank import ConfigurationBank

__all__ = ["ConfigurationBank"]
