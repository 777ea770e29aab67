"""The format in plain numpy, with whole files in memory; format.md says the same in words. Decimals are normalised."""
# ruff: noqa: D103

import json
from fnmatch import fnmatchcase
from fractions import Fraction
from hashlib import sha256
from math import prod

import numpy as np

CODES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read(file):  # -> the header's bytes, {name: (dtype, shape, bytes)} in the order of the data
    end = 8 + int.from_bytes(file[:8], "little")
    found = [(n, e) for n, e in json.loads(file[8:end]).items() if n != "__metadata__"]
    found.sort(key=lambda item: item[1]["data_offsets"])
    return file[:end], {n: (e["dtype"], e["shape"], file[end:][slice(*e["data_offsets"])]) for n, e in found}


def compact(table, sort=True):
    return json.dumps(table, sort_keys=sort, separators=(",", ":"), ensure_ascii=False)


def weights_digest(file):
    tensors = sorted(read(file)[1].items())
    rows = ["\t".join([n, d, ",".join(map(str, s)), sha256(b).hexdigest()]) + "\n" for n, (d, s, b) in tensors]
    return "sha256:" + sha256("".join(rows).encode()).hexdigest()


def recipe_digest(base, alpha, items, method="sum"):  # items: [(sha256 of a patch, weight, [(glob, factor)])]
    chosen = [{"sha256": d, "weight": w} | ({"where": where} if where else {}) for d, w, where in sorted(items)]
    table = {"alpha": alpha, "base": base, "method": method, "patches": chosen, "version": 1}
    return sha256(compact(table).encode()).hexdigest()


def decode(dtype, raw):  # -> float64, in which every dtype is exact
    bits = np.frombuffer(raw, CODES[dtype])
    return ((bits.astype("<u4") << 16).view("<f4") if dtype == "BF16" else bits).astype("<f8")


def encode(values, dtype):  # rounds to float32 and then to the dtype, nearest even; leaves F64 as it is
    if dtype != "BF16":
        return (values if dtype == "F64" else values.astype("<f4")).astype(CODES[dtype]).tobytes()
    bits = values.astype("<f4").view("<u4").astype("<u8")
    return (bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype("<u2").tobytes()


def select(delta, size, drop_bottom, drop_top):  # -> the mask; groups have `size` elements
    groups, mask = np.abs(delta).reshape(-1, size), np.zeros((delta.size // size, size), bool)
    top, bottom = (int(Fraction(drop) * size) for drop in (drop_top, drop_bottom))
    order = np.argsort(-groups, axis=1, kind="stable")[:, top : size - bottom]
    np.put_along_axis(mask, order, True, axis=1)
    return mask.reshape(-1) & (delta != 0)


def make_patch(base, tuned, drop_bottom="0.85", drop_top="0.007", granularity="tensor", value_dtype="auto"):
    after, touched, table, data = read(tuned)[1], {}, {"__metadata__": {}}, b""
    for name, (dtype, shape, raw) in sorted(read(base)[1].items()):
        if dtype in CODES and raw:
            theirs = after[name][0]  # the base is rounded as the tuned tensor was when it was saved
            delta = (decode(*after[name][::2]) - decode(theirs, encode(decode(dtype, raw), theirs))).astype("<f4")
            mask = select(delta, shape[-1] if shape and granularity == "row" else delta.size, drop_bottom, drop_top)
            count, stored = int(mask.sum()), value_dtype.replace("auto", dtype.replace("F64", "F32"))
            places = ("bitmask", "U8", np.packbits(mask, bitorder="little"))
            if 32 * count < delta.size:
                places = ("indices", "I32", np.flatnonzero(mask).astype("<i4"))
            for part, code, array in (places, ("values", stored, delta[mask])) if count else ():
                piece = encode(array, code) if part == "values" else array.tobytes()
                span = [len(data), len(data) + len(piece)]
                table[f"{name}.{part}"] = {"dtype": code, "shape": [array.size], "data_offsets": span}
                touched[name], data = {"dtype": dtype, "shape": shape}, data + piece
    drops = {"drop_bottom": drop_bottom, "drop_top": drop_top, "format": "breadcrumb-patch", "granularity": granularity}
    rest = {"tensors": compact(touched), "value_dtype": value_dtype, "version": "1"}
    table["__metadata__"] = {"base": weights_digest(base), **drops, **rest}
    text = compact(table, sort=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def scale(*factors):  # the float32 nearest to the exact product
    exact = prod(map(Fraction, factors))
    near = np.float32(float(exact))  # or beside it, since that rounds twice; of two as near it is the even one
    around = [near, np.nextafter(near, np.float32("-inf")), np.nextafter(near, np.float32("inf"))]
    return min(around, key=lambda one: abs(Fraction(float(one)) - exact))


def combine(old, alpha, touches, method):  # touches: [(places, scale, values)], ascending by sha256
    new, votes = old.copy(), np.zeros((4, old.size))  # P, CP, N, CN
    for places, by, values in touches:
        products = by * values
        if method == "sum":
            new[places] += products
        elif method == "mean":
            votes[0][places] += products
            votes[1][places] += by
        else:
            for side, chosen in ((0, products > 0), (2, products < 0)):
                votes[side][places[chosen]] += np.abs(products[chosen])
                votes[side + 1][places[chosen]] += by
    mass, weight = np.where((votes[0] >= votes[2]) | (method == "mean"), votes[:2], votes[2:] * [[-1], [1]])
    there = weight > 0
    new[there] += np.float64(scale(alpha)) * (mass[there] / weight[there]).astype("<f4")
    return new


def compose(base, alpha, patches, method="sum"):  # patches: [(bytes of the file, weight, [(glob, factor)])]
    header, tensors = read(base)
    ordered = sorted(patches, key=lambda patch: sha256(patch[0]).hexdigest())
    for name, (dtype, shape, raw) in tensors.items():
        touches = []
        for file, weight, where in ordered:
            factor = next((factor for glob, factor in where if fnmatchcase(name, glob)), "1")
            if f"{name}.values" in (entries := read(file)[1]) and factor != "0":
                held = entries.get(f"{name}.indices") or entries[f"{name}.bitmask"]
                places = np.frombuffer(held[2], "u1" if held[0] == "U8" else "<i4")
                places = np.flatnonzero(np.unpackbits(places, bitorder="little")) if held[0] == "U8" else places
                by = scale(*([alpha] if method == "sum" else []), weight, factor)
                touches.append((places, np.float64(by), decode(*entries[f"{name}.values"][::2])))
        if touches:  # what is not finite in the base keeps its bits
            old = decode(dtype, raw)
            changed = encode(combine(old, alpha, touches, method), dtype)
            new, kept = (np.frombuffer(bits, CODES[dtype]) for bits in (changed, raw))
            tensors[name] = dtype, shape, np.where(np.isfinite(old), new, kept).tobytes()
    return header + b"".join(raw for _, _, raw in tensors.values())
