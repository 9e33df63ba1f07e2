"""Text from any recurrent model: logits transforms, `generate`, beam search, strings in and out."""
