"""A wide & deep model with embeddings, as TensorFlow's estimator builds it; its map.

Needs: jax. A model file: `wide_deep_partitioned.py` fills and runs it.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

import tf2flax

SHAPES = {
    "colour": (10, 4), "city": (11, 6), "query": (300, 8),
    "deep/hidden_0/kernel": (25, 16), "deep/hidden_0/bias": (16,),
    "deep/hidden_1/kernel": (16, 8), "deep/hidden_1/bias": (8,),
    "deep/bilinear": (8, 5, 8),
    "deep/logits/kernel": (13, 1), "deep/logits/bias": (1,),
    "wide/colour": (10, 1), "wide/query": (300, 1),
    "wide/num": (3, 1), "wide/bias": (1,),
}  # fmt: skip

# Where the estimator keeps the embedding of a feature.
EMBEDDING = "dnn/input_from_feature_columns/input_layer/{}_embedding/embedding_weights"


def assignment_map(
    checkpoint: tf2flax.Checkpoint,
) -> dict[str | tf2flax.Expression, str]:
    """What of the checkpoint fills the model.

    The embedding of cities was looked up by the "mod" strategy, which has the row of an
    id in part `id % parts`, there in row `id // parts`. Here rows are ids.
    """
    city = EMBEDDING.format("city")
    (count, _), parts = SHAPES["city"], len(checkpoint[city].slices)
    ids = [i for part in range(parts) for i in range(part, count, parts)]
    return {
        EMBEDDING.format("colour"): "colour",
        EMBEDDING.format("query"): "query",
        tf2flax.src(city).take(np.argsort(ids)): "city",
        "dnn/hiddenlayer_{i}/": "deep/hidden_{i}/",
        "dnn/bilinear/tensor": "deep/bilinear",
        "dnn/logits/": "deep/logits/",
        "linear/linear_model/{feature}/weights": "wide/{feature}",
        "linear/linear_model/bias_weights": "wide/bias",
    }


def forward(
    params: Mapping[str, jax.Array], inputs: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
    """The model, as TensorFlow's graph has it."""
    colour = params["colour"][inputs["ids_colour"]]
    city = params["city"][inputs["ids_city"]]
    query = params["query"][inputs["ids_query"]]
    rows = inputs["bag_rows"]
    counts = jnp.zeros(len(colour)).at[rows].add(1.0)
    sums = jnp.zeros_like(colour).at[rows].add(params["colour"][inputs["bag_ids"]])
    bag = sums / jnp.sqrt(jnp.maximum(counts, 1.0))[:, None]
    x = jnp.concatenate([inputs["num"], colour, city, query, bag], axis=1)
    for layer in ("deep/hidden_0", "deep/hidden_1"):
        x = jax.nn.relu(x @ params[f"{layer}/kernel"] + params[f"{layer}/bias"])
    pairs = jnp.einsum("bi,ijk,bk->bj", x, params["deep/bilinear"], x)
    joined = jnp.concatenate([x, pairs], axis=1)
    deep = joined @ params["deep/logits/kernel"] + params["deep/logits/bias"]
    wide = (
        params["wide/colour"][inputs["ids_colour"]]
        + params["wide/query"][inputs["ids_query"]]
        + inputs["num"] @ params["wide/num"]
        + params["wide/bias"]
    )
    return {
        "emb_div": colour, "emb_mod": city, "emb_minmax": query, "bag_sqrtn": bag,
        "bilinear": pairs, "deep": deep, "wide": wide,
        "probabilities": jax.nn.sigmoid(deep + wide),
    }  # fmt: skip
