"""The modalities: what is parsed, held, rewritten and metered."""
