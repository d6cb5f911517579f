"""A study of many hours as rows in git: trained over many sittings, on any machine, each row once."""
