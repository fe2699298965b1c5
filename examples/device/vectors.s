@ What a Cortex-M reads when it starts: where its stack ends, and where the program begins.
    .section .vectors, "a", %progbits
    .global vectors
vectors:
    .word 0x00400000
    .word _start + 1
