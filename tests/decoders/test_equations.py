"""The region decoders against their papers: each written out in NumPy, one caption, one word, one matrix at a time."""

import numpy as np
import pytest
from helpers import small_sizes
from keras import ops

from captioning.decoders.build import decoder_class

V, R, D, E, H = 11, 5, 7, 6, 8  # words, regions, feature size, embedding, hidden


def array(tensor) -> np.ndarray:
    return ops.convert_to_numpy(tensor).astype("float64")


def kernel(layer) -> np.ndarray:
    return array(layer.kernel)


def dense(layer, x):
    return x @ kernel(layer) + (array(layer.bias) if layer.use_bias else 0)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def norm(layer, x):
    centred = x - x.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + layer.epsilon)
    return scaled * array(layer.gamma) + array(layer.beta)


def regions_of(decoder, features):
    """a_1 ... a_R."""
    return np.maximum(norm(decoder.region_norm, dense(decoder.region_dense, features)), 0)


def output(decoder, x):
    """Logits by the embedding's own vectors."""
    return array(decoder.embedding.table) @ dense(decoder.readout, x) + array(decoder.output_bias)


def lstm(gates, cell):
    i, f, g, o = np.split(gates, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def attention(decoder, features, words):
    """Xu et al. (2015), section 4.2: e_i = w tanh(W_a a_i + W_h h), alpha = softmax(e), z = beta * sum alpha_i a_i."""
    a = regions_of(decoder, features)
    h, c = np.split(np.tanh(dense(decoder.start, a.mean(axis=0))), 2)
    size = decoder.sizes["attention_size"]
    w_query, w_beta, w_gates = np.split(kernel(decoder.from_hidden), [size, size + H], axis=1)
    for y in words:
        e = np.asarray([np.tanh(dense(decoder.keys, a_i) + h @ w_query) @ kernel(decoder.scores)[:, 0] for a_i in a])
        alpha = softmax(e)
        beta = sigmoid(h @ w_beta)
        z = beta * sum(share * a_i for share, a_i in zip(alpha, a, strict=True))
        h, c = lstm(dense(decoder.word_gates, y) + h @ w_gates + z @ kernel(decoder.from_context), c)
        yield output(decoder, np.concatenate([h, z, y])), alpha


def adaptive(decoder, features, words):
    """Lu et al. (2017), equations 6 to 13: s = sigmoid(W_x x + W_h h') * tanh(m); c^ = beta s + (1 - beta) c."""
    v = regions_of(decoder, features)
    v_g = np.maximum(dense(decoder.image_dense, v.mean(axis=0)), 0)
    h, m = np.zeros(H), np.zeros(H)
    w_h = kernel(decoder.scores)[:, 0]
    for y in words:
        gates = dense(decoder.word_gates, y) + v_g @ kernel(decoder.image_gates) + h @ kernel(decoder.hidden_gates)
        h, m = lstm(gates[: 4 * H], m)
        s = sigmoid(gates[4 * H :]) * np.tanh(m)
        w_g = h @ kernel(decoder.query)
        z = np.asarray([np.tanh(dense(decoder.keys, v_i) + w_g) @ w_h for v_i in v])
        alpha = softmax(np.append(z, np.tanh(dense(decoder.sentinel_key, s) + w_g) @ w_h))
        beta = alpha[-1]
        c = softmax(z) @ v
        yield output(decoder, beta * s + (1 - beta) * c + h), alpha


def by_heads(count, query, keys, values):
    """Vaswani et al. (2017), section 3.2.2, for one projected query: what the heads find, and their mean weights."""
    mixed, weights = [], []
    for part in np.split(np.arange(H), count):
        weights.append(softmax(keys[:, part] @ query[part] / np.sqrt(len(part))))
        mixed.append(weights[-1] @ values[:, part])
    return np.concatenate(mixed), np.mean(weights, axis=0)


def heads(layer, x, keys, values):
    """The same for a query that is not projected yet. The output is projected too."""
    found, alpha = by_heads(layer.heads, dense(layer.query, x), keys, values)
    return dense(layer.merge, found), alpha


def feed(block, x):
    hidden = dense(block.feed_in, norm(block.feed_norm, x))
    gelu = array(ops.gelu(ops.convert_to_tensor(hidden.astype("float32"))))
    return x + dense(block.feed_out, gelu)


def transformer(decoder, features, words):
    """Pre-norm blocks (Xiong et al., 2020, figure 1b); each word sees itself and those before it."""
    regions = regions_of(decoder, features)
    for block in decoder.encoder_blocks:
        keys, values = np.split(dense(block.self_attention.key_value, norm(block.self_norm, regions)), 2, axis=-1)
        looked = [heads(block.self_attention, norm(block.self_norm, x), keys, values)[0] for x in regions]
        regions = np.asarray([feed(block, x + seen) for x, seen in zip(regions, looked, strict=True)])
    regions = norm(decoder.encoder_norm, regions)
    half = np.arange(H // 2)
    known = [[] for _ in decoder.decoder_blocks]  # the words so far, as each block has seen them
    for t, y in enumerate(words):
        angles = t / 1e4 ** (half / len(half))
        x = dense(decoder.word_dense, y) + np.concatenate([np.sin(angles), np.cos(angles)])
        for block, before in zip(decoder.decoder_blocks, known, strict=True):
            before.append(norm(block.self_norm, x))
            keys, values = np.split(dense(block.self_attention.key_value, np.asarray(before)), 2, axis=-1)
            x = x + heads(block.self_attention, before[-1], keys, values)[0]
            keys, values = np.split(dense(block.cross_attention.key_value, regions), 2, axis=-1)
            seen, alpha = heads(block.cross_attention, norm(block.cross_norm, x), keys, values)
            x = feed(block, x + seen)
        yield output(decoder, norm(decoder.decoder_norm, x)), alpha


def updown(decoder, features, words):
    """Anderson et al. (2018), equations 2 to 7: h1 = LSTM([h2, mean of v, W_e y]); h2 = LSTM([sum alpha_i v_i, h1])."""
    v = regions_of(decoder, features)
    h1, m1, h2, m2 = np.zeros((4, H))
    w_h1, w_h2 = np.split(kernel(decoder.hidden_gates), 2)
    w_query, w_attending = np.split(kernel(decoder.from_attending), [decoder.sizes["attention_size"]], axis=1)
    for y in words:
        x1 = v.mean(axis=0) @ kernel(decoder.image_gates) + dense(decoder.word_gates, y) + h2 @ w_h2
        h1, m1 = lstm(x1 + h1 @ w_h1, m1)
        a = [np.tanh(dense(decoder.keys, v_i) + h1 @ w_query) @ kernel(decoder.scores)[:, 0] for v_i in v]
        alpha = softmax(np.asarray(a))
        v_hat = sum(share * v_i for share, v_i in zip(alpha, v, strict=True))
        h2, m2 = lstm(dense(decoder.language_gates, np.concatenate([v_hat, h2])) + h1 @ w_attending, m2)
        yield output(decoder, h2), alpha


def attention_on_attention(layer, x, regions):
    """Huang et al. (2019), section 3.1: sigmoid(W_g [q, v] + b_g) * (W_i [q, v] + b_i), where v is what the heads find.

    Also gives the mean weights of the heads.
    """
    query = dense(layer.query, x)
    keys, values = np.split(dense(layer.key_value, regions), 2, axis=-1)
    found, alpha = by_heads(layer.heads, query, keys, values)
    information, gate = np.split(dense(layer.information_gate, np.concatenate([query, found])), 2)
    return sigmoid(gate) * information, alpha


def aoa(decoder, features, words):
    """Huang et al. (2019), section 3.2: a' = LayerNorm(a + AoA(a)); h = LSTM([W_e y, mean of a + c], h); c = AoA(h)."""
    a = regions_of(decoder, features)
    for layer in decoder.refiners:
        a = np.asarray([norm(layer.norm, a_i + attention_on_attention(layer.attention, a_i, a)[0]) for a_i in a])
    h, m, c = np.zeros((3, H))
    for y in words:
        others = np.concatenate([h, a.mean(axis=0) + c])
        h, m = lstm(dense(decoder.word_gates, y) + dense(decoder.other_gates, others), m)
        c, alpha = attention_on_attention(decoder.attention, h, a)
        yield output(decoder, c), alpha


def feed_forward(layer, x):
    """AddNorm(F(x)), F(x) = U relu(V x + b) + c."""
    return norm(layer.norm, x + dense(layer.outer, np.maximum(dense(layer.inner, x), 0)))


def m2(decoder, features, words):
    """Cornia et al. (2020), section 3: memories beside the regions; sum of alpha_i * C(X_i, Y) over encoder layers."""
    x, levels = regions_of(decoder, features), []
    for block in decoder.encoder_blocks:
        keys, values = np.split(dense(block.attention.key_value, x), 2, axis=-1)
        keys = np.concatenate([keys, array(block.memory_keys)])
        values = np.concatenate([values, array(block.memory_values)])
        z = [norm(block.norm, x_i + heads(block.attention, x_i, keys, values)[0]) for x_i in x]
        x = np.asarray([feed_forward(block.feed, z_i) for z_i in z])
        levels.append(x)
    half = np.arange(H // 2)
    known = [[] for _ in decoder.decoder_blocks]  # the words so far, as each block has seen them
    for t, word in enumerate(words):
        angles = t / 1e4 ** (half / len(half))
        y = dense(decoder.word_dense, word) + np.concatenate([np.sin(angles), np.cos(angles)])
        for block, before in zip(decoder.decoder_blocks, known, strict=True):
            before.append(y)
            keys, values = np.split(dense(block.self_attention.key_value, np.asarray(before)), 2, axis=-1)
            y = norm(block.self_norm, y + heads(block.self_attention, y, keys, values)[0])
            meshed, weights = np.zeros(H), []
            for gate, level in zip(block.gates, levels, strict=True):
                keys, values = np.split(dense(block.cross_attention.key_value, level), 2, axis=-1)
                c, alpha = heads(block.cross_attention, y, keys, values)
                meshed += sigmoid(dense(gate, np.concatenate([y, c]))) * c
                weights.append(alpha)
            y = feed_forward(block.feed, norm(block.cross_norm, y + meshed))
        yield output(decoder, y), np.mean(weights, axis=0)


@pytest.mark.backends
@pytest.mark.parametrize(
    ("name", "equations"),
    [
        ("attention", attention),
        ("adaptive", adaptive),
        ("transformer", transformer),
        ("updown", updown),
        ("aoa", aoa),
        ("m2", m2),
    ],
)
def test_logits_and_weights_are_those_of_the_paper(name, equations):
    sizes = {
        "vocabulary_size": V,
        "regions": R,
        "feature_size": D,
        "embedding_size": E,
        "hidden_size": H,
        "dropout": 0.5,
    }
    decoder = decoder_class(name)(**sizes, **(small_sizes(name) or {"attention_size": 4}))
    rng = np.random.default_rng(3)
    # Weights as large as trained ones, biases included, so that every part counts.
    decoder.set_weights([rng.normal(0, 0.7, weight.shape) for weight in decoder.get_weights()])
    features = rng.normal(size=(2, R, D)).astype("float32")
    tokens = rng.integers(0, V, (2, 6)).astype("int32")
    logits, weights = map(array, decoder.attend(features, tokens))
    words = array(decoder.embedding(tokens))
    for row in range(2):
        expected = list(equations(decoder, features[row].astype("float64"), words[row]))
        np.testing.assert_allclose(logits[row], [each for each, _ in expected], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(weights[row], [alpha for _, alpha in expected], atol=1e-4)
    assert np.abs(logits).max() > 1
