"""Entries of a manifest to arrays: whole and checked, or in part, for any reader.

Knows tensors, pieces and runs of elements; never a leaf, a map, a device, or a file
format. Whoever wants tensors says what takes their elements (`targets`); whole tensors
for a dict, tensors that are only checked, and the leaves of a restore go through the
same machine.

Begin with `whole.read_many`, which is the machine's simplest use; then `groups`.

whole         tensors into a dict, or nowhere: `read_entry`, `read_many`, `check_many`
parts         boxes and strided views of tensors, without checksums
scheduling    `run_groups`: when groups begin, in which threads, within which memory
groups        `GroupReader`: the jobs of one group, chunk by chunk, checksums on the way
targets       contracts of what takes elements
destinations  an array that a view of a tensor fills, run by run
units         what is read at once: `ReadUnit`, `ViewRead`; small neighbours in batches
checks        what is refused; stored bytes to elements, and their checksums
strides       strided views: along which axes they run
runs          strided views to the runs of bytes worth reading
"""
