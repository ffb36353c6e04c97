"""GGUF files, which llama.cpp, Ollama and LM Studio run.

stage.py       the file of a merged model, or of an adapter, written and run
families.py    the architectures: their metadata, and how their tensors lie in the file
vocab.py       the tokenizer in the file's terms
quant.py       the types of the weights
held.py        what llama.cpp's own quantizer made of the weights, read from its file
write.py       a model as one file; rounds the model in memory as the file did
adapter.py     an adapter as a file of its own
engine.py      a real llama.cpp in a process of its own: what it makes of a file
modelfile.py   what Ollama needs besides
"""
