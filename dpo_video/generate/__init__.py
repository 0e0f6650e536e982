"""Stage generate: N sampled answers of the policy to each sample."""
