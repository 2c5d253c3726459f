"""What names in code and in code spans stand for, and where that is explained."""

COMMON = {"nsf": "nsf_nb", "nsf_nb": "nsf_nb", "model": "nsf_nb.NSF()"}  # as prose uses them on every page


class Names:
    """What names stand for, on each page, and where that is explained."""

    def __init__(self, places: dict, pages: dict, numbers: dict):
        self.places, self.pages, self.numbers = places, pages, numbers
        self.bare = {name.rpartition(".")[2]: name for name in places if name.count(".") == 1 and places[name][1]}
        meanings = {}
        for name, place in places.items():
            meanings.setdefault(name.rpartition(".")[2], {})[tuple(place)] = name
        for short, found in meanings.items():  # one meaning in the whole book, and no common word
            if len(found) == 1 and (not short.islower() or "_" in short):
                self.bare.setdefault(short, *found.values())

    def resolve(self, text: str, page: str) -> tuple[str, str]:
        """The longest part of a dotted name that is known, and its full name; both empty if none is."""
        head, *rest = text.split(".")
        own = self.pages.get(page, {})
        if own.get(head) == "" and not rest:  # on this page it is a name of somebody else's
            return "", ""
        full = own.get(head) or COMMON.get(head)
        if full is None and head in ("pp", "tl", "pl", "metrics") and rest:
            full = f"nsf_nb.{head}"
        full = full or self.bare.get(head)
        if full and full.endswith("()"):  # a model: its methods are links, itself and its attributes are not
            name = ".".join([full[:-2], *rest[:1]])
            return (".".join([head, rest[0]]), name) if rest and name in self.places else ("", "")
        while full:
            name = ".".join([full, *rest])
            if name in self.places:
                return ".".join([head, *rest]), name
            if not rest:
                break
            rest.pop()
        return "", ""
