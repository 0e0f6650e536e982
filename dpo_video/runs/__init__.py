"""What is known of run folders from outside: `dpo-video status`, `runs`, `compare` and `clean`."""
