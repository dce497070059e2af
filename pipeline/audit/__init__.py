"""A record judged from outside, from token streams, files and ledgers: `audit.audit`."""
