"""Names that people can tell apart and remember, for peers whose ids they cannot."""

import hashlib

_MANNERS = """
    able agile alert ample apt bold brave brief bright brisk broad busy calm candid chief civil clear clever
    close cosy crisp daring deft dry eager early easy exact fair fast fine firm fleet fond frank free fresh gentle glad
    grand great handy happy hardy honest humble jolly keen kind large lean light lively loyal lucky merry mild modest
    neat nimble noble
"""
_COLOURS = """
    amber aqua ash azure beige birch black blue brass bronze brown buff cherry chrome cobalt copper coral cream
    crimson cyan denim ebony emerald fawn flax forest ginger gold green grey hazel honey indigo iron ivory jade khaki
    lavender lemon lilac lime linen maple maroon mauve mint moss navy ochre olive onyx opal orange pearl pine pink plum
    purple quartz red rose ruby rust saffron
"""
_ANIMALS = """
    adder alpaca ant antelope auk badger bat bear beaver bee beetle bison boar bobcat bull bunny camel carp
    cat cicada clam cobra cod colt condor coot cougar cow coyote crab crane cricket crow cuckoo deer dingo dodo dog
    dolphin donkey dove duck eagle eel egret elk emu ermine falcon ferret finch flea fly fox frog gazelle gecko gibbon
    giraffe gnat gnu goat goose gopher grouse gull hamster hare hawk hedgehog hen heron hippo horse hyena ibex ibis
    iguana impala jackal jaguar jay kestrel kiwi koala lamb lark lemur leopard lion lizard llama lobster loon lynx macaw
    magpie mole moose moth mouse mule newt okapi orca oryx osprey otter owl ox oyster panda parrot pelican penguin
    pigeon pony puffin puma quail rabbit
"""


def animal_name(peer_id: str) -> str:
    """Return a peer's name, such as "brisk amber otter", the same everywhere and for ever.

    One of half a million, so two peers of a large swarm may share it: it is no proof of who somebody is.
    """
    number = int.from_bytes(hashlib.sha256(peer_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    words = []
    for choices in map(str.split, (_MANNERS, _COLOURS, _ANIMALS)):
        number, place = divmod(number, len(choices))
        words.append(choices[place])
    return " ".join(words)
