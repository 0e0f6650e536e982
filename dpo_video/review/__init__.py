"""`dpo-video review`: a page on this machine on which people vote between the answers of pairs."""
