"""The parts of scripts/synth_gguf: shapes, quant mixes, random blocks, vocabularies and the GGUF
container."""
