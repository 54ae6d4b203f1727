"""An 8B model on one H100, by arithmetic: nothing here was measured on one.

From data sheets: H100 SXM has 80 GB, 3.35 TB/s and 989 dense bfloat16 TFLOPS; Llama-3.1-8B has 8.03 G parameters, 32
layers of width 4,096, and 8 heads of 128 for keys and values. Assumed: four fifths of the bandwidth and half of the
FLOPS are reached, 88 % of the memory is used, and a step costs 2 ms beside its arithmetic. Measured on a CPU, which
does that part on GPU machines as well: tokenising, and a claim at the gateway.
"""

from bench.replay.simulate.workload import Prefill, Service, Step

MEMORY, BANDWIDTH, FLOPS = 80e9, 3.35e12, 989e12
PARAMETERS, LAYERS, WIDTH, KEYS_AND_VALUES = 8.03e9, 32, 4096, 2 * 8 * 128
BYTES = 2
REACHED_BANDWIDTH, REACHED_FLOPS, USED_MEMORY, LAUNCH_S = 0.8, 0.5, 0.88, 0.002
DRAFT = 8

TOKENISE_S = 3.6e-6
CLAIM_S = 0.0012
CALL_S = 0.004
TURN_S = 0.003


def h100_8b() -> Service:
    """The service times of one server."""
    bandwidth, flops = REACHED_BANDWIDTH * BANDWIDTH, REACHED_FLOPS * FLOPS
    kept = LAYERS * KEYS_AND_VALUES * BYTES
    row = 2 * PARAMETERS / flops
    fixed = PARAMETERS * BYTES / bandwidth + LAUNCH_S
    return Service(
        prefill=Prefill(fixed=LAUNCH_S, token=row, pair=4 * LAYERS * WIDTH / flops),
        decode=Step(fixed=fixed, request=row, context=kept / bandwidth),
        verify=Step(fixed=fixed, request=row * (1 + DRAFT), context=kept / bandwidth),
        tokenise=TOKENISE_S,
        turn=TURN_S,
        call=CALL_S,
        claim=CLAIM_S,
        pause=0.001,
        pool=int((USED_MEMORY * MEMORY - PARAMETERS * BYTES) / kept),
        chunk=8192,
        running=256,
    )
