# Completion of swarmctl for fish.
# Made by `python -m tools.completions` from the command tree of swarmctl; do not edit.
#
# This script starts no process: names come from globbing. Functions with -S read and set local variables of
# __swarmctl_complete: path (the commands typed so far), position (number of arguments before the cursor),
# typed (the word at the cursor), before (the part of the word before the value), kind (the kind of value expected)
# and list (the candidates).

function __swarmctl_enter -S -d 'Enter a command if it exists'
    switch "$path:$argv[1]"
        case ':init'
            set path 'init'
        case ':run'
            set path 'run'
        case ':attach'
            set path 'attach'
        case ':doctor'
            set path 'doctor'
        case ':backup'
            set path 'backup'
        case ':restore'
            set path 'restore'
        case ':upgrade'
            set path 'upgrade'
        case ':quarantine'
            set path 'quarantine'
        case ':status' ':ps'
            set path 'status'
        case ':stop'
            set path 'stop'
        case ':restart'
            set path 'restart'
        case ':rename'
            set path 'rename'
        case ':fork'
            set path 'fork'
        case ':rm'
            set path 'rm'
        case ':logs'
            set path 'logs'
        case ':report'
            set path 'report'
        case ':models'
            set path 'models'
        case ':sample'
            set path 'sample'
        case ':chat'
            set path 'chat'
        case ':eval'
            set path 'eval'
        case ':export'
            set path 'export'
        case ':replay'
            set path 'replay'
        case ':launch'
            set path 'launch'
        case ':profiles' ':profile'
            set path 'profiles'
        case ':keys' ':key'
            set path 'keys'
        case ':tasks'
            set path 'tasks'
        case ':rollouts'
            set path 'rollouts'
        case ':swarm'
            set path 'swarm'
        case ':identity'
            set path 'identity'
        case ':service'
            set path 'service'
        case ':completion'
            set path 'completion'
        case 'profiles:list'
            set path 'profiles list'
        case 'profiles:show'
            set path 'profiles show'
        case 'profiles:validate'
            set path 'profiles validate'
        case 'profiles:new'
            set path 'profiles new'
        case 'profiles:path'
            set path 'profiles path'
        case 'profiles:edit'
            set path 'profiles edit'
        case 'profiles:delete'
            set path 'profiles delete'
        case 'profiles:import'
            set path 'profiles import'
        case 'keys:set'
            set path 'keys set'
        case 'keys:list'
            set path 'keys list'
        case 'keys:test'
            set path 'keys test'
        case 'keys:delete'
            set path 'keys delete'
        case 'keys:import'
            set path 'keys import'
        case 'tasks:list'
            set path 'tasks list'
        case 'tasks:show'
            set path 'tasks show'
        case 'tasks:try'
            set path 'tasks try'
        case 'rollouts:show'
            set path 'rollouts show'
        case 'rollouts:export'
            set path 'rollouts export'
        case 'rollouts:stats'
            set path 'rollouts stats'
        case 'swarm:new'
            set path 'swarm new'
        case 'swarm:join'
            set path 'swarm join'
        case 'swarm:list'
            set path 'swarm list'
        case 'swarm:show'
            set path 'swarm show'
        case 'swarm:invite'
            set path 'swarm invite'
        case 'swarm:peers'
            set path 'swarm peers'
        case 'swarm:leaderboard'
            set path 'swarm leaderboard'
        case 'swarm:leave'
            set path 'swarm leave'
        case 'identity:show'
            set path 'identity show'
        case 'identity:new'
            set path 'identity new'
        case 'identity:backup'
            set path 'identity backup'
        case 'identity:restore'
            set path 'identity restore'
        case 'service:install'
            set path 'service install'
        case 'service:uninstall'
            set path 'service uninstall'
        case 'service:status'
            set path 'service status'
        case 'completion:install'
            set path 'completion install'
        case 'completion:uninstall'
            set path 'completion uninstall'
        case 'completion:show'
            set path 'completion show'
        case '*'
            return 1
    end
    return 0
end

function __swarmctl_takes -S -d 'Set kind to the kind of value an option takes; leave it empty for a flag'
    switch "$path:$argv[1]"
        case 'run:-p' 'run:--profile'
            set kind profile
        case 'run:--node'
            set kind node
        case 'run:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'run:--model'
            set kind directory
        case 'run:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'run:--gpus'
            set kind none
        case 'run:--rounds'
            set kind none
        case 'run:--seed'
            set kind none
        case 'run:--offload'
            set kind words
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'run:--serve'
            set kind file
        case 'run:--max-usd'
            set kind words
            set list unlimited
        case 'run:--join'
            set kind none
        case 'run:--set'
            set kind setting
        case 'run:--restart'
            set kind words
            set list auto on-failure never
        case 'attach:--node'
            set kind node
        case 'doctor:-p' 'doctor:--profile'
            set kind profile
        case 'doctor:--node'
            set kind node
        case 'doctor:--set'
            set kind setting
        case 'restore:--as'
            set kind none
        case 'quarantine:--lift'
            set kind none
        case 'status:--node'
            set kind node
        case 'fork:--at'
            set kind none
        case 'logs:--node'
            set kind node
        case 'logs:-n' 'logs:--lines' 'logs:--tail'
            set kind none
        case 'logs:--since'
            set kind none
        case 'logs:--level'
            set kind words
            set list info warning error
        case 'report:-o' 'report:--output'
            set kind file
        case 'report:--port'
            set kind none
        case 'report:--samples'
            set kind none
        case 'models:-p' 'models:--profile'
            set kind profile
        case 'models:--set'
            set kind setting
        case 'sample:--checkpoint'
            set kind none
        case 'sample:-n' 'sample:--questions'
            set kind none
        case 'sample:--system'
            set kind none
        case 'sample:--temperature'
            set kind none
        case 'sample:--seed'
            set kind none
        case 'sample:--max-tokens'
            set kind none
        case 'sample:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'chat:--checkpoint'
            set kind none
        case 'chat:--system'
            set kind none
        case 'chat:--temperature'
            set kind none
        case 'chat:--seed'
            set kind none
        case 'chat:--max-tokens'
            set kind none
        case 'chat:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'eval:--against'
            set kind node
        case 'eval:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'eval:-n' 'eval:--questions'
            set kind none
        case 'eval:-k'
            set kind none
        case 'eval:--samples'
            set kind none
        case 'eval:--checkpoint'
            set kind none
        case 'eval:--temperature'
            set kind none
        case 'eval:--max-tokens'
            set kind none
        case 'eval:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'eval:-p' 'eval:--profile'
            set kind profile
        case 'eval:--max-usd'
            set kind words
            set list unlimited
        case 'eval:--examples'
            set kind none
        case 'export:--checkpoint'
            set kind none
        case 'export:--gguf-type'
            set kind words
            set list f16 bf16 q8_0
        case 'replay:--step'
            set kind none
        case 'replay:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'launch:--print'
            set kind words
            set list sky dstack slurm compose
        case 'launch:--nodes'
            set kind none
        case 'launch:--gpu'
            set kind none
        case 'launch:--name'
            set kind none
        case 'launch:--join'
            set kind none
        case 'launch:-p' 'launch:--profile'
            set kind profile
        case 'launch:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'launch:--model'
            set kind directory
        case 'launch:--rounds'
            set kind none
        case 'launch:--offload'
            set kind words
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'launch:--serve'
            set kind file
        case 'launch:--max-usd'
            set kind words
            set list unlimited
        case 'launch:--set'
            set kind setting
        case 'profiles show:--set'
            set kind setting
        case 'profiles new:--from'
            set kind words
            set list cpu default demo gpu mac smol
        case 'profiles new:--model'
            set kind directory
        case 'profiles new:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'profiles new:--device'
            set kind words
            set list auto cpu cuda mps xpu
        case 'profiles new:--rounds'
            set kind none
        case 'profiles new:--offload'
            set kind words
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'profiles new:--max-usd'
            set kind words
            set list unlimited
        case 'profiles new:--set'
            set kind setting
        case 'profiles import:--name'
            set kind none
        case 'keys set:--host'
            set kind none
        case 'tasks show:-n' 'tasks show:--questions'
            set kind none
        case 'tasks show:--param'
            set kind none
        case 'tasks show:--seed'
            set kind none
        case 'tasks try:--answer'
            set kind none
        case 'tasks try:--param'
            set kind none
        case 'tasks try:--seed'
            set kind none
        case 'rollouts show:--node'
            set kind node
        case 'rollouts show:--round'
            set kind none
        case 'rollouts show:--question'
            set kind none
        case 'rollouts show:--source'
            set kind words
            set list policy policy_text teacher hinted peer relay local openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'rollouts show:--last'
            set kind none
        case 'rollouts export:--node'
            set kind node
        case 'rollouts export:--round'
            set kind none
        case 'rollouts export:--question'
            set kind none
        case 'rollouts export:--source'
            set kind words
            set list policy policy_text teacher hinted peer relay local openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'rollouts export:--last'
            set kind none
        case 'rollouts export:--format'
            set kind words
            set list jsonl csv parquet
        case 'rollouts export:-o' 'rollouts export:--output'
            set kind file
        case 'rollouts stats:--node'
            set kind node
        case 'rollouts stats:--by'
            set kind words
            set list provider model stage
        case 'swarm new:-p' 'swarm new:--profile'
            set kind profile
        case 'swarm new:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'swarm new:--game'
            set kind words
            set list sampling study-group
        case 'swarm new:--stage-time'
            set kind none
        case 'swarm new:--set'
            set kind setting
        case 'swarm join:--node'
            set kind node
        case 'swarm join:-p' 'swarm join:--profile'
            set kind profile
        case 'swarm join:--task'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'swarm join:--set'
            set kind setting
        case 'swarm show:--node'
            set kind node
        case 'swarm invite:--node'
            set kind node
        case 'swarm peers:--node'
            set kind node
        case 'swarm leaderboard:--node'
            set kind node
        case 'swarm leave:--node'
            set kind node
        case 'identity show:--node'
            set kind node
        case 'identity new:--node'
            set kind node
        case 'identity backup:--node'
            set kind node
        case 'identity restore:--node'
            set kind node
        case 'service install:--key'
            set kind none
        case 'service install:--print'
            set kind words
            set list systemd launchd compose
    end
end

function __swarmctl_options -S -d 'Set list to the options available here'
    switch "$path"
        case ''
            set list --version\t'Print the version and exit' \
                --help\t'Show this message and exit'
        case 'init'
            set list --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'run'
            set list --profile\t'Profile name or .toml file' \
                --node\t'Node name' \
                --task\t'Task, preset, or path of your questions' \
                --model\t'Hugging Face model id or local directory' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --gpus\t'Train and generate on the first N NVIDIA GPUs' \
                --rounds\t'Total rounds of the node; 0: until you stop it' \
                --seed\t'Seed of sampling and adapter weights' \
                --offload\t'API to generate with: a provider, a server\'s URL, or off' \
                --serve\t'Start a server of this node\'s weights: vllm, sglang, or a path' \
                --max-usd\t'The most the node may spend in total, or unlimited' \
                --join\t'Join a swarm; see `swarmctl swarm invite`' \
                --set\t'Change any setting (repeatable)' \
                --fresh\t'Start over: delete what the node learned' \
                --dry-run\t'Show the plan; change nothing' \
                --all\t'With --dry-run: also show all settings' \
                --detach\t'Continue in the background once the node has started' \
                --restart\t'Restart a trainer that fails: on-failure, never, or auto (with --detach)' \
                --plain\t'Print one line per round instead of the live view' \
                --json\t'Print the result as JSON at the end; never prompt' \
                --quiet\t'Print only warnings, errors and the summary' \
                --verbose\t'Also print what is saved; show tracebacks' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'attach'
            set list --node\t'Node name' \
                --plain\t'Print one line per round instead of the live view' \
                --help\t'Show this message and exit'
        case 'doctor'
            set list --profile\t'Profile name or .toml file' \
                --node\t'Node name' \
                --set\t'Change any setting (repeatable)' \
                --deep\t'Also run a training step (up to 2 minutes) and send each provider a test question (may cost money)' \
                --offline\t'Don\'t use the network' \
                --fix\t'Fix what is safe to fix: file modes, leftovers, missing directories' \
                --report\t'Print Markdown for a bug report, without keys or names' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'backup'
            set list --yes\t'Overwrite an existing file' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'restore'
            set list --as\t'Create another node, with a new identity' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'upgrade'
            set list --dry-run\t'Only show what would change' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'quarantine'
            set list --lift\t'Learn from this peer id or provider again, or from all' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'status'
            set list --node\t'Only this node' \
                --watch\t'Update every 2 seconds, until Ctrl-C' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'stop'
            set list --all\t'Stop every running node' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'restart'
            set list --all\t'Restart every running node' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'rename'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'fork'
            set list --at\t'Checkpoint to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'rm'
            set list --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'logs'
            set list --node\t'Node name' \
                --lines\t'Number of lines' \
                --tail\t'Number of lines' \
                --follow\t'Keep printing new lines' \
                --since\t'Only lines since TIME: 30m, 2h, 14:05 or 2026-11-28T14:05' \
                --level\t'Lowest severity to print: info, warning or error' \
                --raw\t'Print the output of the trainer and its libraries instead' \
                --json\t'Print events as JSON lines' \
                --help\t'Show this message and exit'
        case 'report'
            set list --output\t'File to write, or - for stdout' \
                --open\t'Open the page in your browser' \
                --serve\t'Serve the page on this machine and keep it up to date until Ctrl-C' \
                --port\t'With --serve: the port' \
                --samples\t'Sample rollouts per node' \
                --yes\t'Overwrite an existing file' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'models'
            set list --profile\t'Profile name or .toml file' \
                --set\t'Change any setting (repeatable)' \
                --json\t'Print JSON; never prompt' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'sample'
            set list --checkpoint\t'Checkpoint to use' \
                --last\t'Repeat the latest PROMPT' \
                --base\t'With a prompt: also show the answer before training' \
                --questions\t'Number of held-out questions' \
                --system\t'System prompt; empty for none' \
                --temperature\t'Sampling temperature; 0 always picks the most likely token' \
                --seed\t'Seed of sampling' \
                --max-tokens\t'Maximum tokens per answer' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'chat'
            set list --checkpoint\t'Checkpoint to use' \
                --base\t'Talk to the model before training' \
                --system\t'System prompt; empty for none' \
                --temperature\t'Sampling temperature; 0 always picks the most likely token' \
                --seed\t'Seed of sampling' \
                --max-tokens\t'Maximum tokens per answer' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --json\t'Print one JSON line per answer, for scripts' \
                --help\t'Show this message and exit'
        case 'eval'
            set list --against\t'Compare with this; base: the node before training' \
                --task\t'Questions of this task' \
                --questions\t'Number of questions' \
                -k\t'Also report pass@K' \
                --samples\t'Answers per question' \
                --checkpoint\t'Checkpoint to use' \
                --base\t'Evaluate NODE\'s model before training' \
                --temperature\t'Sampling temperature' \
                --max-tokens\t'Maximum tokens per answer' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --profile\t'Profile name or .toml file' \
                --max-usd\t'The most this evaluation may spend, or unlimited' \
                --examples\t'Also show the first N questions and answers' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'export'
            set list --checkpoint\t'Checkpoint to use' \
                --merge\t'Merge adapters into the base model' \
                --gguf\t'Write one GGUF file instead, for llama.cpp and Ollama' \
                --gguf-type\t'Like --gguf, with weights as f16, bf16 or q8_0' \
                --ollama\t'Also write a Modelfile for Ollama' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'replay'
            set list --step\t'Step to repeat, counted from 1' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'launch'
            set list --print\t'sky, dstack, slurm or compose' \
                --nodes\t'Number of new nodes' \
                --gpu\t'GPU of each node: a model such as H100, memory such as 24GB, or none' \
                --name\t'Name of the new nodes; a number is added' \
                --join\t'Join a swarm with an invitation, instead of NODE\'s' \
                --profile\t'Profile name or .toml file' \
                --task\t'Task, preset, or path of your questions' \
                --model\t'Hugging Face model id or local directory' \
                --rounds\t'Total rounds of each node' \
                --offload\t'API to generate with: a provider, a server\'s URL, or off' \
                --serve\t'Each node starts a server of its weights: vllm or sglang' \
                --max-usd\t'The most each node may spend in total, or unlimited' \
                --set\t'Change any setting (repeatable)' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles'
            set list --help\t'Show this message and exit'
        case 'profiles list'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles show'
            set list --origin\t'Show where each value comes from' \
                --set\t'Change any setting (repeatable)' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles validate'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles new'
            set list --from\t'Built-in profile to start from' \
                --model\t'Hugging Face model id or local directory' \
                --task\t'Task or preset (repeatable)' \
                --device\t'auto, cpu, cuda, cuda:1, mps or xpu' \
                --rounds\t'Total rounds; 0: until you stop it' \
                --offload\t'API to generate with: a provider, a server\'s URL, or off' \
                --max-usd\t'The most the node may spend in total, or unlimited' \
                --set\t'Change any setting (repeatable)' \
                --yes\t'Overwrite an existing profile' \
                --no-input\t'Never prompt' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles path'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'profiles edit'
            set list --help\t'Show this message and exit'
        case 'profiles delete'
            set list --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'profiles import'
            set list --name\t'Name of the profile' \
                --no-test\t'Save API keys without testing' \
                --insecure-storage\t'Store API keys unencrypted in files only you can read' \
                --yes\t'Overwrite an existing profile' \
                --no-input\t'Never prompt' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'keys'
            set list --help\t'Show this message and exit'
        case 'keys set'
            set list --host\t'Base URL of the API, for a name you choose' \
                --no-test\t'Save without testing' \
                --insecure-storage\t'Store the key unencrypted in a file only you can read' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'keys list'
            set list --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'keys test'
            set list --json\t'Print JSON; never prompt' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'keys delete'
            set list --all\t'Delete every saved key' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'keys import'
            set list --no-test\t'Save without testing' \
                --insecure-storage\t'Store the key unencrypted in a file only you can read' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'tasks'
            set list --help\t'Show this message and exit'
        case 'tasks list'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'tasks show'
            set list --questions\t'Number of questions' \
                --param\t'Change a parameter of the task (repeatable)' \
                --seed\t'Seed of the questions' \
                --full\t'Don\'t truncate long texts' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'tasks try'
            set list --answer\t'Answer to the first question, or next turn (repeatable)' \
                --param\t'Change a parameter of the task (repeatable)' \
                --seed\t'Seed of the questions' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'rollouts'
            set list --help\t'Show this message and exit'
        case 'rollouts show'
            set list --node\t'Node name' \
                --round\t'Only this round, from 1' \
                --question\t'Only questions whose digest starts with this' \
                --source\t'Only this kind (teacher, policy, …) or provider (openai, local, …)' \
                --last\t'Only the latest N' \
                --full\t'Don\'t truncate long texts' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'rollouts export'
            set list --node\t'Node name' \
                --round\t'Only this round, from 1' \
                --question\t'Only questions whose digest starts with this' \
                --source\t'Only this kind (teacher, policy, …) or provider (openai, local, …)' \
                --last\t'Only the latest N' \
                --correct\t'Only completions verified as correct' \
                --format\t'jsonl, csv or parquet' \
                --output\t'Output file, or - for stdout' \
                --yes\t'Overwrite an existing file' \
                --help\t'Show this message and exit'
        case 'rollouts stats'
            set list --node\t'Node name' \
                --by\t'Group by any of provider,model,stage' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm'
            set list --help\t'Show this message and exit'
        case 'swarm new'
            set list --profile\t'Profile of the first node' \
                --task\t'Task, preset, or path of your questions' \
                --game\t'sampling or study-group' \
                --stage-time\t'Seconds per stage of the study-group game' \
                --open\t'Let anyone join; peers fill at most a quarter of each batch' \
                --set\t'Change any setting of the first node (repeatable)' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm join'
            set list --node\t'Name of the new node' \
                --profile\t'Profile name or .toml file' \
                --task\t'Task, preset, or path of your questions' \
                --set\t'Change any setting (repeatable)' \
                --dry-run\t'Show the plan; change nothing' \
                --detach\t'Continue in the background once the node has started' \
                --plain\t'Print one line per round instead of the live view' \
                --json\t'Print JSON; never prompt' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --help\t'Show this message and exit'
        case 'swarm list'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm show'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm invite'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm peers'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm leaderboard'
            set list --node\t'Node to use' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'swarm leave'
            set list --node\t'Node to use' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'identity'
            set list --help\t'Show this message and exit'
        case 'identity show'
            set list --node\t'Only this node' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'identity new'
            set list --node\t'Node to use' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'identity backup'
            set list --node\t'Node to use' \
                --passphrase\t'Encrypt it with a passphrase (hidden prompt or stdin)' \
                --yes\t'Overwrite an existing file' \
                --no-input\t'Never prompt; fail if input is required' \
                --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'identity restore'
            set list --node\t'Node to use' \
                --yes\t'Answer yes to all prompts' \
                --no-input\t'Never prompt; fail if input is required' \
                --json\t'Print JSON; never prompt' \
                --help\t'Show this message and exit'
        case 'service'
            set list --help\t'Show this message and exit'
        case 'service install'
            set list --key\t'A file with a key that the service needs (repeatable)' \
                --print\t'Only print the file: systemd, launchd or compose' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'service uninstall'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'service status'
            set list --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'completion'
            set list --help\t'Show this message and exit'
        case 'completion install'
            set list --yes\t'Overwrite a file not written by swarmctl' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'completion uninstall'
            set list --yes\t'Delete a file not written by swarmctl' \
                --json\t'Print JSON' \
                --help\t'Show this message and exit'
        case 'completion show'
            set list --help\t'Show this message and exit'
    end
end

function __swarmctl_argument -S -d 'Set kind to the kind of argument expected here'
    switch "$path:$position"
        case ':0'
            set list init\t'Set up a node with a few questions, and start it' \
                run\t'Start or resume a node' \
                attach\t'Watch a running node' \
                doctor\t'Check your setup and suggest fixes' \
                backup\t'Save a whole node to a file' \
                restore\t'Restore a node from a backup' \
                upgrade\t'Bring an older node\'s files to the current format' \
                quarantine\t'Show which peers and providers a node does not learn from' \
                status\t'Show the state of the nodes on this machine' \
                stop\t'Save and stop running nodes' \
                restart\t'Stop nodes and start them again in the background' \
                rename\t'Rename a node' \
                fork\t'Create a node that continues from another\'s checkpoint' \
                rm\t'Delete nodes and everything they learned' \
                logs\t'Print what a node did: rounds, evaluations, warnings and errors' \
                report\t'Write a page that shows what nodes learned, and at what cost' \
                models\t'List a provider\'s models, cheapest first' \
                sample\t'Show what a node\'s model answers' \
                chat\t'Chat with a node\'s model' \
                eval\t'Measure how often a model answers correctly' \
                export\t'Export a node\'s model for other programs' \
                replay\t'Repeat a training step and compare its result' \
                launch\t'Print a file that starts nodes on other machines' \
                profiles\t'Manage profiles, the files that configure a node' \
                keys\t'Save, list, test and delete API keys' \
                tasks\t'List tasks, look at their questions, and try answers' \
                rollouts\t'Show, export and count a node\'s rollouts' \
                swarm\t'Create a swarm, invite others and see who is in it' \
                identity\t'Show, create, back up and restore node identities' \
                service\t'Run nodes as services, which start after a reboot' \
                completion\t'Set up Tab completion for bash, zsh and fish'
        case 'profiles:0'
            set list list\t'List built-in profiles and your own' \
                show\t'Print all of a profile\'s settings as TOML' \
                validate\t'Check profiles and print every problem' \
                new\t'Create a profile' \
                path\t'Print the path of a profile, or of your profiles directory' \
                edit\t'Open a profile in your editor, then check it' \
                delete\t'Delete one of your profiles' \
                import\t'Create a profile from an RL Swarm YAML file'
        case 'keys:0'
            set list set\t'Save an API key (hidden prompt or stdin)' \
                list\t'List API keys' \
                test\t'Test whether services accept your keys' \
                delete\t'Delete a saved key from the keyring or its file' \
                import\t'Save keys found in the environment or a .env file'
        case 'tasks:0'
            set list list\t'List all tasks with a description' \
                show\t'Print a task\'s parameters and some of its questions' \
                try\t'Answer a task\'s questions, and see how your answers score'
        case 'rollouts:0'
            set list show\t'Print rollouts with prompt, reward, source and cost' \
                export\t'Export completions as JSON lines, CSV or Parquet' \
                stats\t'Count requests, tokens, cost, completions and results'
        case 'swarm:0'
            set list new\t'Create a swarm and its first node' \
                join\t'Join a swarm: create a node in it, and start the node' \
                list\t'List the swarms that this machine\'s nodes are in' \
                show\t'Show a swarm\'s charter and this machine\'s node in it' \
                invite\t'Print the command that others use to join' \
                peers\t'List the peers that the node knows' \
                leaderboard\t'Rank peers by what the node learned from them' \
                leave\t'Leave a swarm and continue alone'
        case 'identity:0'
            set list show\t'Show the identities of this machine\'s nodes' \
                new\t'Create a new identity for a node' \
                backup\t'Save a node\'s identity to a file' \
                restore\t'Restore a node\'s identity from a backup'
        case 'service:0'
            set list install\t'Run a node as a service, now and after every reboot' \
                uninstall\t'Stop and delete a node\'s service; the node stays' \
                status\t'Show which nodes run as services'
        case 'completion:0'
            set list install\t'Install the completion script for a shell' \
                uninstall\t'Delete the installed completion script' \
                show\t'Print the completion script'
        case 'attach:0'
            set kind node
        case 'doctor:*'
            set kind words
            set list machine python accelerator fit keys api swarm hub
        case 'backup:0'
            set kind node
        case 'backup:1'
            set kind file
        case 'restore:0'
            set kind file
        case 'upgrade:0'
            set kind node
        case 'quarantine:0'
            set kind node
        case 'status:*'
            set kind node
        case 'stop:*'
            set kind node
        case 'restart:*'
            set kind node
        case 'rename:0'
            set kind node
        case 'fork:0'
            set kind node
        case 'rm:*'
            set kind node
        case 'logs:0'
            set kind node
        case 'report:*'
            set kind node
        case 'models:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'sample:0'
            set kind node
        case 'chat:0'
            set kind node
        case 'eval:0'
            set kind node
        case 'export:0'
            set kind node
        case 'export:1'
            set kind directory
        case 'replay:0'
            set kind node
        case 'launch:0'
            set kind node
        case 'profiles show:0'
            set kind profile
        case 'profiles validate:0'
            set kind profile
        case 'profiles path:0'
            set kind profile
        case 'profiles edit:0'
            set kind profile
        case 'profiles delete:0'
            set kind profile
        case 'profiles import:0'
            set kind file
        case 'keys set:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb
        case 'keys test:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb
        case 'keys delete:0'
            set kind words
            set list openai deepseek openrouter groq together mistral gemini xai fireworks cerebras huggingface wandb
        case 'keys import:0'
            set kind file
        case 'tasks show:0'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'tasks try:0'
            set kind words
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'rollouts show:0'
            set kind node
        case 'rollouts export:0'
            set kind node
        case 'rollouts stats:0'
            set kind node
        case 'swarm show:0'
            set kind node
        case 'swarm invite:0'
            set kind node
        case 'swarm peers:0'
            set kind node
        case 'swarm leaderboard:0'
            set kind node
        case 'swarm leave:0'
            set kind node
        case 'identity backup:0'
            set kind file
        case 'identity restore:0'
            set kind file
        case 'service install:0'
            set kind node
        case 'service uninstall:0'
            set kind node
        case 'service status:0'
            set kind node
        case 'completion install:0'
            set kind words
            set list bash zsh fish
        case 'completion uninstall:0'
            set kind words
            set list bash zsh fish
        case 'completion show:0'
            set kind words
            set list bash zsh fish
    end
end

function __swarmctl_setting -S -d 'Offer settings or the values of a setting'
    if not string match -q '*=*' -- "$typed"
        set list checkpoint.every=\t'Rounds between checkpoints' \
            checkpoint.keep=\t'Checkpoints kept' \
            eval.canary=\t'Whether a significant fall in accuracy restores the last good weights and quarantines the peers and providers that the node has learned from since' \
            eval.every=\t'Rounds between evaluations' \
            eval.questions=\t'Number of held-out questions, which only this node knows' \
            game.curriculum=\t'Start with easier questions than the tasks\' parameters ask for: where a new node answers some correctly' \
            game.format_reward=\t'Reward for a completion in exactly the requested format, in addition to the outcome, until the node follows the format' \
            game.group_size=\t'G: completions per question' \
            game.groups=\t'I: questions per round' \
            game.kind=\t'"sampling": one stage, I local groups and J groups from peers (swarm sampling, arXiv 2509.08721)' \
            game.partial_credit=\t'Use the verifier\'s partial credit for near misses' \
            game.refill=\t'How many extra questions a round may ask' \
            game.rest=\t'For how many passes over a fixed set (jsonl, gsm8k) a question is skipped, if all or none of the node\'s completions were correct the last two times' \
            game.role=\t'Role that the node plays in "study-group"' \
            game.rounds=\t'Total rounds of the node, over all runs' \
            generation.batch=\t'Completions generated at a time, on each GPU' \
            generation.max_completion_tokens=\t'Maximum tokens per completion; longer ones are cut' \
            generation.max_prompt_tokens=\t'Maximum tokens per prompt' \
            generation.temperature=\t'Sampling temperature' \
            hub.every=\t'Rounds between pushes' \
            hub.private=\t'Whether a new repository is private' \
            hub.repo=\t'Repository on the Hugging Face hub, OWNER/NAME' \
            journal.keep_rounds=\t'Rounds whose prompts and completions are kept, about 0.5 MB each; older ones are deleted' \
            judge.instructions=\t'What to grade, from 0 to 10' \
            judge.max_tokens=\t'Maximum tokens per grade, in addition to hidden reasoning' \
            judge.model=\t'Model at the provider' \
            judge.provider=\t'A built-in provider, or the NAME of your [providers.NAME]' \
            judge.weight=\t'Reward for the best grade' \
            model.device=\t'cpu, mps, xpu, cuda, a numbered device such as cuda:1, or "auto": the best of CUDA, MPS, XPU and CPU' \
            model.dtype=\t'Number format of the computation' \
            model.fused_kernels=\t'Compute with Liger\'s kernels, which are faster on NVIDIA GPUs' \
            model.gradient_checkpointing=\t'Recompute activations in the backward pass: less memory, about a third slower' \
            model.load_in_4bit=\t'Load the frozen weights under adapters (model.lora) in 4 bits: a quarter of the memory, slower, less precise' \
            model.lora=\t'Train adapters (LoRA) instead of all weights' \
            model.lora.alpha=\t'Scale: the update is multiplied by alpha / rank' \
            model.lora.dropout=\t'Dropout on the adapter\'s input while training' \
            model.lora.rank=\t'Rank r of the update B·A' \
            model.lora.targets=\t'Modules with an adapter: "all-linear", or names separated by commas' \
            model.name=\t'A causal language model: a Hugging Face id, a directory, "smollm2" (SmolLM2-135M-Instruct, 93 MB from the Python package index), or "tiny" (built locally, for the demo)' \
            model.revision=\t'Branch, tag or commit on the Hugging Face hub' \
            model.thinking=\t'Turns the chat template\'s thinking mode on or off (Qwen3 and others)' \
            model.threads=\t'PyTorch\'s CPU threads' \
            node.fresh=\t'Start over at every run' \
            node.name=\t'Name of the node and of its directory' \
            node.seed=\t'Seed of sampling and of adapter weights' \
            offload.ahead=\t'Rounds for which completions are requested in advance, while earlier rounds still train' \
            offload.batch=\t'Use the provider\'s Batch API: half the price, answers within 24 hours' \
            offload.fallback=\t'What generates while the provider is unavailable, in order: providers, or "local"' \
            offload.key=\t'Where to read the API key from' \
            offload.kind=\t'What the API\'s text counts as, which decides how the node learns from it' \
            offload.limits.concurrency=\t'Maximum requests in flight' \
            offload.limits.requests_per_minute=\t'Maximum requests per minute' \
            offload.limits.timeout=\t'Seconds after which a request times out' \
            offload.limits.tokens_per_minute=\t'Maximum tokens per minute, prompts and completions together' \
            offload.limits.usd=\t'The most this node may spend in total, in USD, over all runs and providers' \
            offload.limits.usd_per_day=\t'The most this node may spend per day (UTC), in USD' \
            offload.max_tokens=\t'Maximum tokens per completion from the API' \
            offload.model=\t'Model at the provider' \
            offload.on_limit=\t'What to do when a cap is reached: stop, or generate locally' \
            offload.prices=\t'Prices by provider' \
            offload.provider=\t'A built-in provider, or the NAME of your [providers.NAME]' \
            offload.reasoning_effort=\t'How much a reasoning model thinks' \
            offload.reasoning_tokens=\t'Maximum tokens for hidden reasoning per completion, in addition to offload.max_tokens' \
            offload.rounds=\t'Rounds in which the API generates, counted from 0: "*", "0-9,20-29", "100-" or "every 3"' \
            offload.service_tier=\t'"flex": cheaper, and slower when the service is busy' \
            offload.serving.arguments=\t'Further arguments for the server that the node starts, such as --gpu-memory-utilization=0.3 for vLLM' \
            offload.serving.command=\t'The program of a server that the node starts, watches and stops, such as vllm, sglang or /opt/vllm/bin/vllm' \
            offload.serving.engine=\t'The engine that the servers run' \
            offload.serving.folder=\t'Directory for what is pushed, which the servers must be able to read' \
            offload.serving.gpu=\t'The NVIDIA GPU for the server that the node starts, as nvidia-smi counts' \
            offload.serving.server_folder=\t'The path of the same directory on the servers, such as in a container' \
            offload.serving.turns=\t'Whether the server and the node take turns on one GPU: the server sleeps, and has given its memory back, unless it generates' \
            offload.serving.urls=\t'Base URLs of all replicas of the server, such as http://192.168.1.20:8000/v1' \
            offload.share=\t'Share of each group that the API generates' \
            offload.stages=\t'Stages in which the API generates' \
            offload.teach=\t'What a teacher contributes' \
            offload.when=\t'When the API generates' \
            prompt.examples=\t'Questions of the same task that each prompt shows with their answers' \
            prompt.style=\t'The format asked for: reasoning and answer in tags, only an answer tag, \\boxed{}, or just the answer' \
            prompt.system=\t'Whether the instruction is a system turn (true) or part of the question\'s turn (false)' \
            providers= \
            report.events_mb=\t'MB of events.jsonl and its older parts that are kept: about 20,000 rounds' \
            report.metrics_address=\t'Address to listen on for Prometheus' \
            report.metrics_port=\t'Port at which Prometheus can fetch the node\'s metrics (/metrics) while it runs' \
            report.to=\t'Any of "tensorboard" and "trackio" (dashboards on this machine, from files in the node\'s directory), and "wandb"' \
            supervision.hang_after=\t'Seconds without a sign of life after which the trainer counts as hung' \
            supervision.keep_awake=\t'Keep a Mac on mains power from falling asleep while the node runs (`caffeinate`)' \
            supervision.max_restarts=\t'Restarts in a row before the node gives up' \
            supervision.restart=\t'Whether the trainer is restarted after a crash, a hang or a full disk' \
            swarm.announce=\t'Addresses at which peers reach this node, such as /ip4/203.0.113.7/tcp/4001' \
            swarm.external=\t'J: groups from peers that each step of the game "sampling" learns from' \
            swarm.join=\t'Invitation to a swarm: swarm1:HASH@ADDRESS,…' \
            swarm.loopback=\t'Accept connections from this machine only' \
            swarm.port=\t'Port to listen on' \
            swarm.relay=\t'Let peers with a public address forward connections to nodes that cannot be reached directly' \
            tasks= \
            train.beta=\t'Weight of the KL penalty on the node\'s own rows' \
            train.learning_rate=\t'Peak learning rate of AdamW' \
            train.max_grad_norm=\t'Gradients are clipped to this norm' \
            train.max_lag=\t'Rows of the node\'s own policy that are older than this many steps are dropped' \
            train.micro_batch=\t'Rows per forward and backward pass' \
            train.off_policy_weight=\t'λ: weight of an external row, relative to one of the node\'s own' \
            train.optimizer=\t'AdamW' \
            train.peer_loss=\t'Loss on peers\' groups: correct completions only, weighted by 1 - this node\'s pass rate; both signs of advantage (arXiv 2509.08721); or filtered truncated importance sampling (arXiv 2605.22537)' \
            train.processes=\t'Processes that train the node together, each with a GPU of its own: `run --gpus N`' \
            train.shard=\t'Divide weights, gradients and optimizer state among the processes, instead of keeping a copy in each, so that a larger model fits into several GPUs (PyTorch\'s FSDP2, arXiv 2304.11277)' \
            train.teacher_learning_rate=\t'Peak learning rate of steps that learn only from a teacher: supervised learning' \
            train.teacher_loss=\t'Loss on a teacher\'s verified text: supervised learning, or policy shaping (arXiv 2504.14945)' \
            train.warmup_steps=\t'Steps over which the learning rate rises' \
            train.weight_decay=\t'Decoupled weight decay' \
            warm_start.batch=\t'Answers per step' \
            warm_start.examples=\t'Examples in the prompts of the answers' \
            warm_start.steps=\t'Maximum optimizer steps, at train.learning_rate' \
            warmup.batch=\t'Demonstrations per step' \
            warmup.learning_rate=\t'Learning rate of the warm-up' \
            warmup.steps=\t'Optimizer steps'
        return
    end
    set -l key (string replace -r '=.*' '' -- $typed)
    set before "$before$key="
    switch "$key"
        case 'eval.canary'
            set list true false
        case 'game.curriculum'
            set list true false
        case 'game.kind'
            set list sampling study-group
        case 'game.partial_credit'
            set list true false
        case 'game.role'
            set list none pirate knight mobster announcer founder random
        case 'generation.batch'
            set list auto
        case 'hub.private'
            set list true false
        case 'judge.provider'
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'model.device'
            set list auto cpu cuda mps xpu
        case 'model.dtype'
            set list auto float32 bfloat16 float16
        case 'model.fused_kernels'
            set list auto true false
        case 'model.gradient_checkpointing'
            set list true false
        case 'model.load_in_4bit'
            set list true false
        case 'model.lora'
            set list true false
        case 'model.name'
            set list tiny smollm2
        case 'model.thinking'
            set list true false
        case 'node.fresh'
            set list true false
        case 'offload.batch'
            set list true false
        case 'offload.key'
            set list auto key_file environment credentials keyring file
        case 'offload.kind'
            set list auto policy policy_text teacher relay
        case 'offload.limits.usd'
            set list unlimited
        case 'offload.on_limit'
            set list stop local
        case 'offload.provider'
            set list off openai deepseek openrouter groq together mistral gemini xai fireworks cerebras vllm sglang llamacpp ollama lmstudio transformers litellm
        case 'offload.reasoning_effort'
            set list none minimal low medium high xhigh max
        case 'offload.service_tier'
            set list default flex
        case 'offload.serving.engine'
            set list vllm sglang auto
        case 'offload.serving.turns'
            set list auto on off
        case 'offload.teach'
            set list answers hints distillation
        case 'offload.when'
            set list always failed
        case 'prompt.examples'
            set list auto
        case 'prompt.style'
            set list auto tags answer-tag boxed plain
        case 'prompt.system'
            set list true false
        case 'supervision.keep_awake'
            set list true false
        case 'supervision.restart'
            set list auto on-failure never
        case 'swarm.loopback'
            set list true false
        case 'swarm.relay'
            set list true false
        case 'tasks'
            set list ab acre aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation binary_matrix bitwise_arithmetic caesar_cipher calendar_arithmetic chain_sum circuit_logic coin_flip color_cube_rotation count_bits count_primes course_schedule decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life game_of_life_halting gcd group_anagrams gsm8k gsm_symbolic isomorphic_strings jsonl largest_island lcm leg_counting letter_counting letter_jumble mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation path_star power_function prime_factorization products propositional_logic python-file ransom_note rearc rectangle_count rotate_matrix rotten_oranges sapo self_reference sentence_reordering simple_equations simple_geometry spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku survo syllogism tsumego word_sequence_reversal word_sorting zebra_puzzles
        case 'train.micro_batch'
            set list auto
        case 'train.optimizer'
            set list adamw adamw-8bit
        case 'train.peer_loss'
            set list positive sapo f_tis
        case 'train.shard'
            set list true false
        case 'train.teacher_loss'
            set list gated luffy
    end
end

# Control characters would end or split a candidate.
function __swarmctl_names -d 'Print file names without their suffix'
    for file in $argv[2..]
        string match -qr '[[:cntrl:]]' -- $file
        or string replace -r -- '^.*/' '' (string sub -e -(string length -- $argv[1]) -- $file)
    end
end

function __swarmctl_complete -d 'Print the candidates for the word at the cursor'
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l path ''
    set -l position 0
    set -l before ''
    set -l kind ''
    set -l list
    set -l only_arguments
    for word in $words[2..]
        if test -n "$kind"
            set kind ''
        else if test -z "$only_arguments"; and string match -q -- -- $word
            set only_arguments 1
        else if test -z "$only_arguments"; and string match -q -- '-*' $word
            string match -q -- '*=*' $word; or __swarmctl_takes $word
        else
            __swarmctl_enter $word; or set position (math $position + 1)
        end
    end
    if test -z "$kind$only_arguments"; and string match -q -- '--*=*' $typed
        set before (string replace -r '=.*' '=' -- $typed)
        set typed (string replace -r '^[^=]*=' '' -- $typed)
        __swarmctl_takes (string trim -r -c = -- $before)
    else if test -z "$kind$only_arguments"; and string match -q -- '-*' $typed
        __swarmctl_options
    else if test -z "$kind"
        __swarmctl_argument
    end
    set -l profiles $HOME/.config/swarmctl/profiles
    set -l nodes $HOME/.local/share/swarmctl/nodes
    if set -q SWARMCTL_HOME; and test -n "$SWARMCTL_HOME"
        set -l home (string replace -r '^~(?=/|$)' -- $HOME $SWARMCTL_HOME)
        set profiles $home/profiles
        set nodes $home/nodes
    end
    switch "$kind"
        case setting
            __swarmctl_setting
        case node
            set list (__swarmctl_names / $nodes/*/)
        case profile
            set list cpu default demo gpu mac smol (__swarmctl_names .toml $profiles/*.toml)
            string match -q -- (string trim -l -c '"\'' -- "$typed")'*' $list; or set list (__fish_complete_path $typed)
        case file
            set list (__fish_complete_path $typed)
        case directory
            set list (__fish_complete_directories $typed '')
    end
    test -z "$list"; or printf '%s\n' $before$list
end

complete -c swarmctl -f -a '(__swarmctl_complete)'
