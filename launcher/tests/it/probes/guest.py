"""Plays the guest of QEMU's user network, without a guest: QEMU starts no machine and joins its network
to a socket, over which frames go as a guest's card would send them. Arguments: QEMU, its -netdev, the
user that it runs as, then targets ADDRESS:PORT, for each of which a line says `open`, `refused` or
`nothing`; a target PORT alone is a forwarded port of the host, for which the line says whether the guest
hears of a connection to it."""
import os, select, socket, struct, subprocess, sys, tempfile, time


def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack('>%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
MAC, GATEWAY = bytes.fromhex('525400123456'), bytes.fromhex('52550a000202')
OWN = socket.inet_aton('10.0.2.15')
def ip(protocol, to, payload):
    head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, OWN, to)
    head = head[:10] + struct.pack('>H', checksum(head)) + head[12:]
    return GATEWAY + MAC + b'\x08\0' + head + payload
def syn(to, port, source):
    to = socket.inet_aton(to)
    head = struct.pack('>HHIIBBHHH', source, port, 1, 0, 0x50, 2, 64240, 0, 0)
    pseudo = OWN + to + struct.pack('>BBH', 0, 6, len(head))
    head = head[:16] + struct.pack('>H', checksum(pseudo + head)) + head[18:]
    return ip(6, to, head)
program, netdev, user, targets = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
folder = tempfile.mkdtemp(); os.chmod(folder, 0o777)
listener = socket.socket(socket.AF_UNIX); path = folder + '/wire'
listener.bind(path); os.chmod(path, 0o777); listener.listen()
qemu = subprocess.Popen(['setpriv', '--reuid', user, '--regid', user, '--clear-groups',
    program, '-machine', 'none', '-nodefaults', '-display', 'none', '-netdev', netdev,
    '-netdev', 'hubport,hubid=0,id=h0,netdev=net0',
    '-netdev', 'stream,id=wire,server=off,addr.type=unix,addr.path=' + path,
    '-netdev', 'hubport,hubid=0,id=h1,netdev=wire'])
wire, _ = listener.accept()
def send(frame): wire.sendall(struct.pack('>I', len(frame)) + frame)
buffer = b''
def frames(until):
    global buffer
    while (left := until - time.monotonic()) > 0:
        if not select.select([wire], [], [], left)[0]: return
        heard = wire.recv(65536)
        if not heard: sys.exit('QEMU went')
        buffer += heard
        while len(buffer) >= 4 and len(buffer) >= 4 + struct.unpack('>I', buffer[:4])[0]:
            size = struct.unpack('>I', buffer[:4])[0]
            frame, buffer = buffer[4:4 + size], buffer[4 + size:]
            yield frame
def answer_to(port, seconds, wanted):
    for frame in frames(time.monotonic() + seconds):
        if frame[12:14] == b'\x08\x06' and frame[20:22] == b'\0\1':
            reply = struct.pack('>HHBBH', 1, 0x0800, 6, 4, 2) + MAC + OWN + frame[22:32]
            send(frame[6:12] + MAC + b'\x08\x06' + reply)
        if frame[12:14] == b'\x08\0' and frame[23] == 6 and frame[36:38] == struct.pack('>H', port):
            return wanted(frame[47])
    return 'nothing'


arp = struct.pack('>HHBBH', 1, 0x0800, 6, 4, 1) + MAC + OWN + b'\0' * 6 + socket.inet_aton('10.0.2.2')
send(b'\xff' * 6 + MAC + b'\x08\x06' + arp)
for number, target in enumerate(targets):
    to, _, port = target.rpartition(':')
    if not to:
        client = socket.create_connection(('127.0.0.1', int(port)), 10)
        print(target, answer_to(22, 20, lambda flags: 'heard' if flags & 2 else hex(flags)), flush=True)
        client.close()
        continue
    source = 40000 + number
    send(syn(to, int(port), source))
    told = lambda flags: 'open' if flags & 0x12 == 0x12 else 'refused' if flags & 4 else hex(flags)
    print(target, answer_to(source, 20, told), flush=True)
qemu.kill()
qemu.wait()
os.remove(path)
os.rmdir(folder)
