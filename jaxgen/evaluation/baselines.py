"""What a classifier is held against: TF-IDF with logistic regression, by scikit-learn."""

from collections.abc import Sequence

import numpy as np

from jaxgen.errors import UserError
from jaxgen.evaluation.classification import Labels
from jaxgen.types import Float

_LARGE = 1000
"""From this many texts on, a word or pair of words must be in two of them."""


def tfidf_logistic_regression(
    train_texts: Sequence[str],
    train_labels: Labels,
    test_texts: Sequence[str],
    num_classes: int | None = None,
    *,
    C: float = 10.0,
) -> Float[np.ndarray, "M K"]:
    """Train the baseline and read the test texts with it.

    Words and pairs of words in lower case, `1 + log tf` times the inverse document frequency, rows
    of unit length; logistic regression with an L2 penalty, multinomial; multi-label: one
    regression a label. Everything is fixed and deterministic, so that no row of a table has a
    baseline tuned for it.

    Args:
        train_texts: N texts, cleaned as for the model.
        train_labels: Class numbers, or 0 and 1 for each label.
        test_texts: M texts.
        num_classes: K; by default as many as the labels show.
        C: Inverse strength of the penalty. 10 is usual for TF-IDF: rows of unit length leave every
            feature small, and the library's 1 underfits them.

    Returns:
        Probabilities; 0 for classes that no training text has.

    Raises:
        UserError: scikit-learn is missing, the labels are all of one class, or no text has a word.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise UserError(
            "the TF-IDF baseline needs scikit-learn, which is not installed; "
            "install jaxgen[eval] or go without the baseline"
        ) from error
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        min_df=2 if len(train_texts) >= _LARGE else 1,
        token_pattern=r"(?u)\b\w+\b",  # words of one character too, as Korean has them
        dtype=np.float32,
    )
    try:
        features = vectorizer.fit_transform(train_texts)
    except ValueError as error:  # "empty vocabulary"
        raise UserError(
            f"the TF-IDF baseline needs words in the training texts, got {len(train_texts)} texts "
            "without one; go without the baseline"
        ) from error
    test = vectorizer.transform(test_texts)
    if train_labels.ndim == 1:
        return _regression(features, train_labels, test, num_classes, C)
    columns = []
    for label in train_labels.astype(np.int64).T:
        constant = label.min() == label.max()
        columns.append(
            np.full(len(test_texts), float(label[0]))
            if constant
            else _regression(features, label, test, 2, C)[:, 1]
        )
    return np.stack(columns, axis=1)


def _regression(
    features: object, labels: np.ndarray, test: object, num_classes: int | None, C: float
) -> np.ndarray:
    """Probabilities of the test rows, a column for each class number."""
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(labels)
    if len(classes) < 2:
        raise UserError(
            "the TF-IDF baseline needs training labels of at least two classes, got only class "
            f"{', '.join(map(str, classes))}; go without the baseline"
        )
    model = LogisticRegression(C=C, max_iter=1000).fit(features, labels)
    probabilities = np.zeros((test.shape[0], num_classes or int(classes[-1]) + 1))  # type: ignore[attr-defined]
    probabilities[:, classes] = model.predict_proba(test)
    return probabilities
