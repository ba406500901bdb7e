"""What any long-running program needs, independent of statistics and codecs.

===============  ====================================================================================
``files``        files that are always complete: JSON, CSV, text
``digests``      checksums of results, so that modified ones are refused
``checkpoints``  tensors with a JSON header in one safetensors file
``provenance``   where results come from: commit, settings, versions, device
``locks``        one process at a time in a folder
``platforms``    refuses what does not run on Windows
``signals``      orderly stops by a signal or a deadline
``distributed``  the processes that share one run: broadcast, barrier, averaged gradients
``heartbeat``    the state of runs in ``state.json``: writing, reading, following other processes
``progress``     progress bars with an ETA
``determinism``  bitwise reproducible results of torch
``cuda_graph``   a function recorded once as a CUDA graph and replayed
===============  ====================================================================================
"""
