"""A switch whose ports to one machine carry one tag and nothing else: the machine's cards are QEMU's, by UDP; the LAN is
tap0, without a tag."""

import fcntl
import os
import select
import socket
import struct
import sys

ETHERTYPE, NUMBER = 0x8100, int(sys.argv[1])
OURS, THEIRS, HERE = 7000, 7100, "127.0.0.1"
TUNSETIFF, TAP_NO_PI = 0x400454CA, 0x1002

tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", b"tap0", TAP_NO_PI))
cards = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[2]))]
for place, card in enumerate(cards):
    card.bind((HERE, OURS + place))
while True:
    for ready in select.select([tap, *cards], [], [])[0]:
        if ready == tap:
            frame = os.read(tap, 65536)
            frame = frame[:12] + struct.pack("!HH", ETHERTYPE, NUMBER) + frame[12:]
            for place, card in enumerate(cards):
                card.sendto(frame, (HERE, THEIRS + place))
        else:
            frame = ready.recv(65536)
            kind, number = struct.unpack("!HH", frame[12:16])
            if (kind, number & 0xFFF) == (ETHERTYPE, NUMBER):
                os.write(tap, frame[:12] + frame[16:])
