"""The baselines know the training labels, lengths, and nothing else."""

from __future__ import annotations

import numpy as np

from reactometer.evaluation.baselines import length_baseline
from reactometer.evaluation.bootstrap import bootstrap_mean_pearson
from reactometer.evaluation.metrics import measure


def test_clip_lengths_predict_the_labels_of_their_stimuli() -> None:
    """Three stimuli of about 5, 10 and 15 s: each clip gets the mean labels of its stimulus."""
    generator = np.random.default_rng(1)
    watched = generator.integers(3, size=600)
    lengths = 5.0 * (watched + 1) + generator.uniform(0, 0.5, size=600)
    labels = np.array([[0.0, 1.0], [0.8, 0.2], [0.4, 1.0]])[watched]
    answer = length_baseline(lengths[:500], labels[:500], lengths[500:])
    assert np.median(np.abs(answer - labels[500:])) < 0.01
    score = measure(labels[500:], answer, "ab").mean_pearson
    assert score is not None
    assert score > 0.95


def test_lengths_that_tell_nothing_score_nothing() -> None:
    generator = np.random.default_rng(2)
    lengths, labels = generator.uniform(3, 20, size=2000), generator.uniform(size=(2000, 7))
    interval = bootstrap_mean_pearson(
        labels[1000:], length_baseline(lengths[:1000], labels[:1000], lengths[1000:])
    )
    assert interval.low < 0.0 < interval.high


def test_every_answer_is_a_mean_of_training_labels() -> None:
    """Whatever the lengths: extreme ones to fit, shorter and longer ones to answer for, many alike."""
    generator = np.random.default_rng(3)
    lengths = np.concatenate([[0.04, 3600.0], np.full(40, 11.0), generator.uniform(10, 12, size=58)])
    labels = generator.uniform(0.3, 0.6, size=(100, 4))
    answer = length_baseline(lengths, labels, [0.01, 0.04, 5.0, 11.0, 11.01, 3600.0, 1e6])
    assert answer.shape == (7, 4)
    assert (answer >= labels.min(axis=0)).all()
    assert (answer <= labels.max(axis=0)).all()


def test_equal_lengths_predict_the_training_mean() -> None:
    labels = np.random.default_rng(4).uniform(size=(30, 2))
    mean = np.broadcast_to(labels.mean(axis=0), (3, 2))
    np.testing.assert_allclose(length_baseline(np.full(30, 9.7), labels, [2.0, 9.7, 40.0]), mean)
    np.testing.assert_allclose(length_baseline(np.full(30, np.nan), labels, [np.nan, 9.7, 40.0]), mean)
    np.testing.assert_allclose(length_baseline([4.0], labels[:1], [4.0]), labels[:1])


def test_a_clip_that_could_not_be_read_gets_the_training_mean_and_teaches_no_length() -> None:
    lengths = np.concatenate([np.full(20, np.nan), np.linspace(5.0, 6.0, 20), np.linspace(9.0, 10.0, 20)])
    labels = np.repeat([[0.9], [0.1], [0.5]], 20, axis=0)
    answer = length_baseline(lengths, labels, [np.nan, 5.0, 10.0])
    np.testing.assert_allclose(answer, [[0.5], [0.1], [0.5]])
