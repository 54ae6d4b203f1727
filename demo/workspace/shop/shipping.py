"""Parcels."""


def pack_parcels(weights: list[int], limit: int) -> list[list[int]]:
    """First-fit decreasing: items into parcels of at most `limit` grams."""
    parcels: list[list[int]] = []
    for weight in sorted(weights, reverse=True):
        for parcel in parcels:
            if sum(parcel) + weight <= limit:
                parcel.append(weight)
                break
        else:
            parcels.append([weight])
    return parcels
