"""What is on the disk: attachments, claims, identities, and the few verbs that touch files safely."""
