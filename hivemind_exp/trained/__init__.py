"""Uses a trained model without training it: answers questions, chats, evaluates and exports. Never changes a node."""
