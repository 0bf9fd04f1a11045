"""Check a certificate again, trusting neither who built the weights nor who proved: python -m verify.check CERT DIR.

These files are meant to be read by a sceptic, in this order: certificate.py (which theorem), two_layer.py, compare.py
(what is compared), model.py (what the weights compute), lemmas.py (what follows for each task), formats.py (rounding),
files.py and exact.py (reading and arithmetic). Those are all that the two-layer theorem needs; the others have
seven.py and seven_formats.py; vectors.py, vectors_form.py, vectors_bounds.py and seven_vectors.py; superposition.py and
superposition_blocks.py. They use the standard library alone and share no code with the rest of the project.

From construction.json they take which claim is made of which function: the tasks, m, the shapes, the place of the
evidence. Each lemma is proved again on the weights, in exact rational arithmetic (exp rounded up), and a figure of the
certificate that is below what is found is refused. The bounds are added up anew from the certificate's figures. Weights
of another form than the construction's of the theorem are refused, right or not.

V tokens, n inputs, m examples, K tasks; q_hat is the output at an EQ, q = sum_k (c_k/m') u[g_k(query)]. The roles of
positions are bos, x (inputs), eq and y. A head's leak is the attention that does not go to its targets: what a unit
reads of the head then moves by at most the leak times the range of what it can read.
"""
