"""What the report says in words, beside each figure. HTML."""

PROPOSAL = """
All replacements were run together, untrained: skipped blocks reuse the attention output before them as it is, static
blocks attend by the mean map of these pictures, tokens shrink by averaging. The command converts the model and trains
it to answer like the original, which wins back most of what was lost; how much, only the trained model tells.
"""

CURVE = """
Each point is the best combination found at that speed; the dashed line is the target, the large point the proposal.
KL says how far the class probabilities move from the original's, and is 0 where they do not. Choose the last point
before the curve turns steep; point at one for its spec. Speeds are predicted from the times of single blocks.
"""

PROBES = """
One block is changed, all else stays, nothing is trained. The numbers are KL from the original's class probabilities,
lower is better; bars are logarithmic. <b>Static</b>: all pictures share the mean attention map. <b>Reuse</b>: the
block takes the attention output of the block before it. <b>Drop</b>: it gets none, so this is what the attention is
worth at all. <b>½ and ¼ tokens</b>: patches are averaged onto a smaller grid from this block on. Where static is near
0, attention is computed for every picture and makes no difference; where reuse costs more than drop, the block before
it does something else. Point at a number for the share of pictures that keep their top class.
"""

ACROSS = """
<b>Likeness</b> is the mean cosine between the attention maps of two pictures. Maps are positive and look alike
anyhow, so <b>centred</b> takes the uniform map away first: near 1, all pictures attend alike, and one map can serve
them all. <b>Spread</b> is the distance of maps from their mean, over the mean's size. <b>Entropy rank</b> and
<b>stable rank</b> count the directions that a map really uses: where they are few, tokens are redundant. All are
means over heads; point at a number for each head.
"""

LAYERS = """
How alike two blocks are, from 0 (pale) to 1 (full). Neighbours are framed: they are what reuse would exchange. CKA
compares which pictures differ in the attention output, whatever the rotation; the cosines compare the numbers
themselves, maps averaged over heads. <b>Read them as portraits of the model, not as advice</b>: CKA ranks layers
poorly, and a pair at 0.35 may be exchanged at no loss where one at 0.8 may not. The probes above decide.
"""

TIMES = """
What replacing attention saves depends on the machine. A skipped block trades attention for Φ, which saves little or
nothing on small grids; a static one saves queries, keys and softmax; fewer tokens make every later block cheaper.
Predicted speeds are sums of these times. Other engines have others: compare exported models there before you decide.
"""

HONESTY = """
Static attention and token pyramids follow a paper known from its abstract alone: they are a reconstruction. The
probes judge by agreement with the original on the pictures given, so give pictures like those the model will see. The
search tries a fixed number of combinations, not all, and a proposal is a place to start training from, not a result.
Times vary from run to run, and a proposal at the edge of the target may vary with them.
"""
