#pragma once
class G4UserEventAction;
class G4VUserPrimaryGeneratorAction;
class G4VUserActionInitialization {
public:
    virtual ~G4VUserActionInitialization() = default;
    virtual void Build() const = 0;

protected:
    void SetUserAction(G4VUserPrimaryGeneratorAction* action) const;
    void SetUserAction(G4UserEventAction* action) const;
};
