"""The tasks whose outputs are read, by the words of the catalogue, and what an answer is. Imports no torch."""

DETECTION, SEGMENTATION, SALIENCE = "object-detection", "semantic-segmentation", "salient-object-detection"
SUPER_RESOLUTION, RESTORATION = "super-resolution", "image-restoration"
POSE, LINES, DEPTH = "pose-estimation", "line-detection", "depth-estimation"
VIDEO = "video-classification"
PICTURES = (SUPER_RESOLUTION, RESTORATION)
"""Those whose answer is a picture."""
ANSWERS = {
    DETECTION: "`boxes` (B, 100, 4) x1, y1, x2, y2 in pixels, `scores` (B, 100), `classes` (B, 100), the surest first; rows of score 0 are none",
    SEGMENTATION: "`classes` (B, H, W), whole numbers",
    SALIENCE: "`salience` (B, H, W) from 0 to 1",
    SUPER_RESOLUTION: "`picture` (B, C, s H, s W) from 0 to 1, s times as large as what went in",
    RESTORATION: "`picture` (B, C, H, W) from 0 to 1",
    POSE: "`peaks` (B, J, 30, 4): of each joint the places where it may be, x, y in pixels, score and tag, the surest first; those of a person have "
    "tags alike",
    LINES: "`lines` (B, 200, 4) x1, y1, x2, y2 in pixels, `scores` (B, 200), the surest first; rows of score 0 are none",
    VIDEO: "`chances` (B, classes), which add up to 1",
    DEPTH: "`depth` (B, H, W), in what the net was trained on: metres",
}
"""Of each task the tensors that `zoo.answering.answers.Answering` gives, by name."""
TASKS = tuple(ANSWERS)
