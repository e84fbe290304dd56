from moldiff.cli import app

if __name__ == "__main__":  # not in worker processes, which import it again
    app(prog_name="moldiff")
