"""Which restore points stay: the rules of a policy, keeps and locks; and the deletion of named ones."""
