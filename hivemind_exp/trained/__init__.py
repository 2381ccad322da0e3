"""Uses a trained model: answers questions, chats, evaluates, exports and repeats steps. Never changes a node."""
