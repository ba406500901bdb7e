"""Provide what long-running programs need, independent of statistics and codecs.

``files``        files that are always complete: JSON, CSV, text
``digests``      checksums of results, so that modified ones are refused
``checkpoints``  tensors with a JSON header in one safetensors file
``provenance``   where results come from: commit, settings, versions, device
``locks``        one process at a time in a folder
``platforms``    refuses what does not run on Windows
``platforms``    refuses what does not run on Windows
``signals``      orderly stops by a signal or a deadline
=======
===============  ==============================================================================
``files``        writes files that are always complete: JSON, CSV, text
``digests``      checksums of results, to refuse files modified after writing
``checkpoints``  stores tensors with a JSON header in one safetensors file
``provenance``   records the origin of results: commit, settings, versions, device
``locks``        allows one process at a time in a folder
``platforms``    refuses what does not run on Windows
``signals``      stops work in order on a signal or at a deadline
``distributed``  the processes that share one run: broadcast, barrier, averaged gradients
``heartbeat``    state of runs in ``state.json``: writing, reading, following other processes
``progress``     progress bars with the time left
``display``      the line and the table that a session or a notebook shows of an object
``determinism``  bitwise reproducible results of torch
``cuda_graph``   captures a function as a CUDA graph and replays it
===============  ==============================================================================
"""
