"""PPO on language models: roles, rollout, rewards and advantages, losses, the loop."""
