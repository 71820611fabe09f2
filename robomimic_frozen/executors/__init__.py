"""Where numbered tasks are computed: in processes of this machine, or on a Ray cluster. What they compute is none of its business."""
