"""Boxes of leaves to reads: what of a checkpoint is read, once, and where it goes.

Knows leaves and what fills them; never a device, and never how bytes are read, which is
`_reading`'s. Begin with `plan_reads.plan_reads`, then `run_reads.run_reads`.

reads         the values: `Copy`, `WholeRead`, `PartRead`, `LeafReads`, `ReadPlan`;
              leaves that share tensors, and small neighbours, form one group
plan_reads    assignments and boxes -> a `ReadPlan`; pure
clusters      leaves that share tensors: of those that are alike, reads are counted once
portions      leaves that are too large for the host at once
run_reads     a `ReadPlan` -> the arrays of each group, filled and handed on
in_order      large leaves for who writes files: box after box, in order
misfits       leaves whose values do not fit
destinations  parts of leaves that are filled while chunks come in
tied          tied leaves whose tensors differ

One tensor through all of it. Two devices each need half of the columns of a kernel of
32 x 32 float32. The manifest says where its 4096 bytes lie, and the assignment which
element of the tensor each element of the leaf is: all of them, in order.

>>> import jax, tf2flax
>>> from tf2flax._base.values import Box
>>> from tf2flax._restoring.plan_reads import plan_reads
>>> from tf2flax._restoring.run_reads import run_reads
>>> checkpoint = tf2flax.open_checkpoint("tests/data/bert/model.ckpt")
>>> name, manifest = "bert/pooler/dense/kernel", checkpoint.manifest
>>> manifest.entry(name).pieces[0].span
ByteRange(start=254592, stop=258688)
>>> target = {"kernel": jax.ShapeDtypeStruct((32, 32), "float32")}
>>> (assignment,) = tf2flax.plan(checkpoint, {name: "kernel"}, target).assignments
>>> assignment.layout.offset, assignment.layout.shape, assignment.layout.strides
(0, (32, 32), (32, 1))

Both halves are needed here: together they are the whole leaf, which is one copy of the
whole tensor, read as one unit and checked. Were it larger, chunks of whole rows would
be read by several threads, and their checksums combined.

>>> left, right = Box((0, 0), (32, 16)), Box((0, 16), (32, 32))
>>> plan = plan_reads([assignment], {"kernel": [left, right]}, manifest)
>>> ((read,),) = (group.wholes for group in plan.groups)
>>> read.unit.start, read.unit.size, read.unit.nbytes, plan.unverified
(0, 1024, 4096, ())
>>> read.copies[0].box, read.copies[0].offset, read.copies[0].strides
(Box(starts=(0, 0), stops=(32, 32)), 0, (32, 1))

While it is read, every element goes to the half whose box has it: the right half is a
view of the tensor with offset 16, so that it takes 16 elements of every 32::

    elements   0 .. 15    16 .. 31    32 .. 47    48 .. 63    ...
    left       row 0                  row 1                   16 rows of 16, offset 0
    right                 row 0                   row 1       16 rows of 16, offset 16

>>> arrays = {}
>>> def put(leaves):
...     arrays.update(leaves["kernel"])
...     return lambda: None  # waits until the host memory is free again
>>> options = dict(verify=True, max_in_flight_bytes=1 << 30)
>>> run_reads(plan, put, advance=lambda nbytes, name: None, **options)
>>> bool((arrays[right] == checkpoint[name].read()[:, 16:]).all())
True

A process that has the right half alone reads that view, without a checksum. A gap of 64
bytes is cheaper to read than to skip: one run from the first element to the last.

>>> plan = plan_reads([assignment], {"kernel": [right]}, manifest)
>>> ((part,),) = (group.parts for group in plan.groups)
>>> part.view.offset, part.view.shape, part.view.strides, part.view.nbytes
(16, (32, 16), (32, 1), 4032)
>>> plan.needed_nbytes, plan.unverified
(2048, ('bert/pooler/dense/kernel',))
"""
