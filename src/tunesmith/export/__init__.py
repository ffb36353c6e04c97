"""A run's model leaves for other engines, and proves itself there before it is called done.

stage.py         the stage: a run -> a folder with EXPORT.json, or a repository of the hub
job.py           what one export is asked for, has and gives
tuned.py         the tuned model with its adapter beside the base, and the rows to prove it on
merge.py         the adapter added to its base in float32
fold.py          GPT-Neo as GPT-2, GPT-J as Phi
safetensors.py   a directory for transformers and vLLM; directory.py: written and loaded again
gguf/            a file for llama.cpp and Ollama
onnx.py          a graph for onnxruntime
hub.py           a repository of the hub
check.py         the round trip: loaded again, does it predict and write the same
card.py          what the model card says of it
"""
