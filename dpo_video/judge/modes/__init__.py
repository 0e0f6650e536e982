"""Ways of judging that take several replies: claims, pairwise, jury, cascade."""
